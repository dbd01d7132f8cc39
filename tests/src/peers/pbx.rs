//! The PBX's shell: a listener for its CTI managers and a handle for stories.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use tandem_runtime::io::environment::{
    self,
    net::{TcpListener, TcpOptions, TcpStream, WriteHalf},
};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::sync::mpsc;

use super::line_protocol::{CallId, FromManager, ToManager};
use super::switch::{LoggedCommand, ManagerId, Switch};
use crate::actor::{Handle, Machine};

/// The one PBX of a story. Cloning gives another handle to the same PBX.
#[derive(Debug, Clone)]
pub struct Pbx {
    address: SocketAddr,
    handle: Handle<Exchange>,
}

/// The switch and the way to each connected manager.
#[derive(Debug)]
struct Exchange {
    switch: Switch,
    managers: HashMap<ManagerId, mpsc::UnboundedSender<ToManager>>,
}

impl Pbx {
    /// A PBX with these phones, listening for its managers.
    pub async fn start(listen: SocketAddr, phones: Vec<String>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(listen)
            .await
            .with_context(|| format!("binding the PBX to {listen}"))?;
        let address = listener.local_addr()?;
        let handle = Handle::start(|_| Exchange {
            switch: Switch::new(phones),
            managers: HashMap::new(),
        });
        tokio::spawn(accept(listener, handle.clone()));
        Ok(Self { address, handle })
    }

    /// Where the CTI managers connect to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Reads or changes the switch.
    pub async fn ask<R: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Switch) -> R + Send + 'static,
    ) -> R {
        self.handle.ask(|exchange| question(&mut exchange.switch)).await
    }

    /// Waits until the switch is as `condition` wants it.
    pub async fn wait_until(
        &self,
        what: &str,
        deadline: Duration,
        mut condition: impl FnMut(&Switch) -> bool + Send + 'static,
    ) -> anyhow::Result<()> {
        let condition = move |exchange: &Exchange| condition(&exchange.switch);
        self.handle.wait_until(what, deadline, condition).await
    }

    /// Somebody outside calls a phone.
    pub async fn place_call(&self, from: &str, to: &str) -> CallId {
        let (from, to) = (from.to_owned(), to.to_owned());
        self.ask(move |switch| switch.place_call(&from, &to)).await
    }

    /// The called side picks up: the far end of an outgoing call, or a hand at the phone.
    pub async fn called_side_answers(&self, call: &str) -> bool {
        let call = call.to_owned();
        self.ask(move |switch| switch.called_side_answers(&call)).await
    }

    /// The end that is not `phone` hangs up.
    pub async fn far_end_hangs_up(&self, call: &str, phone: &str) -> bool {
        let (call, phone) = (call.to_owned(), phone.to_owned());
        self.ask(move |switch| switch.far_end_hangs_up(&call, &phone))
            .await
    }

    /// Commands are executed at once and answered after `delay`.
    pub async fn set_answer_delay(&self, delay: Duration) {
        self.ask(move |switch| switch.set_answer_delay(delay)).await;
    }

    /// Every command that changed a call, or was meant to.
    pub async fn log(&self) -> Vec<LoggedCommand> {
        self.ask(|switch| switch.log().to_vec()).await
    }
}

impl Machine for Exchange {
    fn perform_outputs(&mut self) {
        for output in self.switch.take_outputs() {
            let Some(manager) = self.managers.get(&output.manager).cloned() else {
                continue;
            };
            if output.delay.is_zero() {
                let _ = manager.send(output.message);
            } else {
                tokio::spawn(async move {
                    tokio::time::sleep(output.delay).await;
                    let _ = manager.send(output.message);
                });
            }
        }
    }
}

async fn accept(listener: TcpListener, handle: Handle<Exchange>) {
    let mut last = 0;
    while let Ok((stream, _)) = listener.accept().await {
        last += 1;
        tokio::spawn(serve(stream, ManagerId(last), handle.clone()));
    }
}

/// One manager, until it is gone.
async fn serve(stream: TcpStream, id: ManagerId, handle: Handle<Exchange>) {
    let _ = stream.tune(&TcpOptions::default());
    let (reader, writer) = stream.into_split();
    let mut lines = BufReader::new(reader).lines();
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(write_lines(writer, receiver));
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok(message) = serde_json::from_str::<FromManager>(&line) else {
            break;
        };
        let sender = sender.clone();
        let now = environment::now();
        handle.tell(move |exchange| match message {
            FromManager::Hello { name } => {
                exchange.managers.insert(id, sender);
                exchange.switch.manager_connected(id, name);
            }
            FromManager::Request { id: number, request } => exchange.switch.request(id, number, request, now),
            FromManager::Violation { what } => exchange.switch.violation_reported(id, &what),
        });
    }
    handle.tell(move |exchange| {
        exchange.managers.remove(&id);
        exchange.switch.manager_lost(id);
    });
}

async fn write_lines(mut writer: WriteHalf, mut messages: mpsc::UnboundedReceiver<ToManager>) {
    while let Some(message) = messages.recv().await {
        let mut line = serde_json::to_vec(&message).expect("the line protocol has only string keys");
        line.push(b'\n');
        if writer.write_all(&line).await.is_err() {
            return;
        }
    }
}
