//! Histories by hand, and one as large as a long story makes.

use super::*;

type Op = Operation<&'static str, u8>;

const PLENTY: usize = 1_000_000;

fn read(value: u8, from: u64, to: u64) -> Op {
    Operation::answered("a", Request::Read, from, to, Answer::Value(value))
}

fn write(value: u8, from: u64, to: u64) -> Op {
    Operation::answered("a", Request::Write(value), from, to, Answer::Done)
}

fn compare_and_set(expected: u8, new: u8, swapped: bool, from: u64, to: u64) -> Op {
    let request = Request::CompareAndSet { expected, new };
    Operation::answered("a", request, from, to, Answer::Swapped(swapped))
}

fn replace(expected: u8, new: Option<u8>, now: u8, from: u64, to: u64) -> Op {
    let request = Request::Replace { expected, new };
    Operation::answered("a", request, from, to, Answer::Value(now))
}

fn is_linearizable(history: &[Op]) -> bool {
    check(history.iter().cloned(), &0, PLENTY) == Verdict::Linearizable
}

#[track_caller]
fn refusal(history: &[Op]) -> Refusal<&'static str, u8> {
    match check(history.iter().cloned(), &0, PLENTY) {
        Verdict::Refused(refusal) => *refusal,
        other @ (Verdict::Linearizable | Verdict::Undecided { .. }) => panic!("{other:?}"),
    }
}

#[test]
fn a_stale_read_is_refused_and_named() {
    let history = [write(1, 0, 10), write(2, 20, 30), read(1, 40, 50)];
    let refusal = refusal(&history);
    assert_eq!(refusal.key, "a");
    assert_eq!(refusal.prefix, history[..2]);
    assert_eq!(refusal.misfit, history[2]);
    let text = refusal.to_string();
    assert!(
        text.ends_with("40..50: Read answered Value(1) does not fit"),
        "{text}"
    );
}

#[test]
fn a_lost_write_is_refused() {
    let history = [write(1, 0, 10), read(0, 20, 30)];
    assert_eq!(refusal(&history).misfit, history[1]);
    let history = [write(1, 0, 10), read(1, 20, 30), read(0, 40, 50)];
    assert_eq!(refusal(&history).misfit, history[2]);
}

#[test]
fn what_comes_after_the_misfit_is_no_part_of_the_refusal() {
    let history = [
        write(1, 0, 10),
        read(0, 20, 30),
        write(3, 40, 50),
        read(3, 60, 70),
    ];
    assert_eq!(refusal(&history).prefix, history[..1]);
}

#[test]
fn overlapping_operations_may_have_happened_either_way() {
    for seen in [0, 1] {
        assert!(is_linearizable(&[write(1, 0, 30), read(seen, 10, 20)]));
    }
    for last in [1, 2] {
        assert!(is_linearizable(&[
            write(1, 0, 30),
            write(2, 0, 30),
            read(last, 40, 50)
        ]));
    }
    // What one reader has seen, a later one cannot have missed.
    assert!(!is_linearizable(&[
        write(1, 0, 60),
        read(1, 10, 20),
        read(0, 30, 40)
    ]));
}

#[test]
fn an_operation_that_ends_as_another_begins_overlaps_it() {
    assert!(is_linearizable(&[write(1, 0, 10), read(0, 10, 20)]));
}

#[test]
fn an_unknown_write_may_take_effect_at_any_time_or_never() {
    let unknown = Operation::unknown("a", Request::Write(1), 0);
    for seen in [0, 1] {
        assert!(is_linearizable(&[unknown.clone(), read(seen, 10, 20)]));
    }
    let late = [
        unknown.clone(),
        read(0, 10, 20),
        write(2, 30, 40),
        read(1, 50, 60),
    ];
    assert!(is_linearizable(&late));
    // It takes effect once, and not before it was invoked.
    let twice = [
        unknown.clone(),
        read(1, 10, 20),
        write(2, 30, 40),
        read(1, 50, 60),
    ];
    assert!(!is_linearizable(&twice));
    let early = [read(1, 0, 10), Operation::unknown("a", Request::Write(1), 20)];
    assert!(!is_linearizable(&early));
}

#[test]
fn a_failed_write_has_no_effect() {
    let failed = Operation {
        key: "a",
        request: Request::Write(1),
        invoked_at: 0,
        outcome: Outcome::Failed,
    };
    assert!(is_linearizable(&[failed.clone(), read(0, 10, 20)]));
    assert!(!is_linearizable(&[failed, read(1, 10, 20)]));
}

#[test]
fn of_two_that_compare_and_set_one_wins() {
    let race = |first, second| {
        [
            compare_and_set(0, 1, first, 0, 30),
            compare_and_set(0, 2, second, 0, 30),
        ]
    };
    assert!(is_linearizable(&race(true, false)));
    assert!(is_linearizable(&race(false, true)));
    assert!(!is_linearizable(&race(true, true)));
    assert!(!is_linearizable(&race(false, false)));
}

#[test]
fn a_value_of_the_keepers_choice_is_the_one_that_was_told_first() {
    let assigned = replace(0, None, 7, 0, 10);
    assert!(is_linearizable(&[
        assigned.clone(),
        replace(0, None, 7, 20, 30),
        read(7, 40, 50)
    ]));
    assert!(!is_linearizable(&[assigned, replace(0, None, 8, 20, 30)]));
    let request = Request::Replace {
        expected: 0,
        new: None,
    };
    let unknown = Operation::unknown("a", request, 0);
    for seen in [0, 7, 8] {
        assert!(is_linearizable(&[unknown.clone(), read(seen, 20, 30)]));
    }
    assert!(!is_linearizable(&[unknown, read(7, 20, 30), read(8, 40, 50)]));
}

#[test]
fn keys_do_not_concern_each_other() {
    let of_b = |operation: Op| Operation {
        key: "b",
        ..operation
    };
    assert!(is_linearizable(&[write(1, 0, 10), of_b(read(0, 20, 30))]));
    let history = [read(0, 0, 10), of_b(write(1, 0, 10)), of_b(read(0, 20, 30))];
    assert_eq!(refusal(&history).key, "b");
}

#[test]
fn a_search_that_is_too_long_is_called_undecided() {
    // Any order of the writes might be the one, so all subsets of them are tried before the read is given up.
    let mut history: Vec<Op> = (0..24).map(|value| write(value, 0, 100)).collect();
    history.push(read(99, 200, 300));
    history.push(Operation {
        key: "b",
        ..read(0, 0, 10)
    });
    let verdict = check(history.iter().cloned(), &0, 10_000);
    assert_eq!(verdict, Verdict::Undecided { keys: vec!["a"] });
    history.push(Operation {
        key: "b",
        ..read(1, 20, 30)
    });
    let verdict = check(history, &0, 10_000);
    assert!(matches!(verdict, Verdict::Refused(refusal) if refusal.key == "b"));
}

#[test]
fn ten_thousand_operations_on_fifty_keys_are_checked() {
    let mut history: Vec<Operation<u64, u64>> = (0..50).flat_map(real_register).collect();
    assert_eq!(check(history.clone(), &0, PLENTY), Verdict::Linearizable);
    // A read in the middle of one key misses everything that had been written.
    let stale = history.iter().position(|operation| {
        let reads = operation.request == Request::Read && operation.key == 30;
        reads && operation.invoked_at > 100_000
    });
    let stale = stale.unwrap();
    if let Outcome::Answered { answer, .. } = &mut history[stale].outcome {
        *answer = Answer::Value(0);
    }
    let verdict = check(history.clone(), &0, PLENTY);
    assert!(
        matches!(&verdict, Verdict::Refused(refusal) if refusal.misfit == history[stale]),
        "{verdict:?}"
    );
}

/// 200 operations on a register, some ten of them at a time; one in fifty is never answered.
fn real_register(key: u64) -> Vec<Operation<u64, u64>> {
    let mut held = 0;
    let operation = |number: u64| {
        let mixed = mix(key * 1000 + number);
        let moment = 1000 * (number + 1);
        let (request, answer) = match mixed % 3 {
            0 => (Request::Read, Answer::Value(held)),
            1 => {
                held = number + 1;
                (Request::Write(held), Answer::Done)
            }
            _ => {
                let expected = if mixed.is_multiple_of(5) { held } else { held + 1 };
                let new = number + 1;
                let swapped = held == expected;
                held = if swapped { new } else { held };
                (Request::CompareAndSet { expected, new }, Answer::Swapped(swapped))
            }
        };
        let invoked_at = moment.saturating_sub(mixed % 5000);
        let mut operation =
            Operation::answered(key, request, invoked_at, moment + (mixed >> 20) % 5000, answer);
        if (mixed >> 40).is_multiple_of(50) {
            operation.outcome = Outcome::Unknown;
        }
        operation
    };
    (0..200).map(operation).collect()
}

/// A number that looks like chance.
fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 31)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let number = (number ^ (number >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    number ^ (number >> 32)
}
