//! Panics of simulated processes. A task that panics takes itself down alone, and nobody outside need hear of it.

use std::cell::RefCell;
use std::panic;
use std::sync::Once;

thread_local! {
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Takes note of every panic of this thread, on which the whole world runs, from here on.
pub(super) fn listen() {
    static LISTENING: Once = Once::new();
    LISTENING.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panicked| {
            PANICS.with_borrow_mut(|panics| panics.push(panicked.to_string()));
            before(panicked);
        }));
    });
    PANICS.take();
}

/// The first panic since [`listen`].
pub(super) fn first() -> Option<String> {
    PANICS.with_borrow(|panics| panics.first().cloned())
}
