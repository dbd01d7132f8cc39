//! Against the definition: on tiny histories every order can be tried.

use proptest::prelude::*;

use super::*;

type Op = Operation<&'static str, u8>;

const PLENTY: usize = 1_000_000;

fn is_linearizable(history: &[Op]) -> bool {
    check(history.iter().cloned(), &0, PLENTY) == Verdict::Linearizable
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn it_agrees_with_trying_every_order(history in proptest::collection::vec(any_operation(), 0..6)) {
        prop_assert_eq!(is_linearizable(&history), some_order_explains(&history));
    }

    #[test]
    fn the_prefix_of_a_refusal_explains_itself(history in proptest::collection::vec(any_operation(), 0..6)) {
        if let Verdict::Refused(refusal) = check(history, &0, PLENTY) {
            prop_assert!(is_linearizable(&refusal.prefix));
        }
    }
}

fn any_operation() -> impl Strategy<Value = Op> {
    (
        any_request(),
        0..3_u8,
        any::<bool>(),
        0..12_u64,
        0..8_u64,
        0..8_u8,
    )
        .prop_map(|(request, value, swapped, invoked_at, length, outcome)| {
            let answer = match request {
                Request::Read | Request::Replace { .. } => Answer::Value(value),
                Request::Write(_) => Answer::Done,
                Request::CompareAndSet { .. } => Answer::Swapped(swapped),
            };
            let mut operation = Operation::answered("a", request, invoked_at, invoked_at + length, answer);
            match outcome {
                0 => operation.outcome = Outcome::Failed,
                1 | 2 => operation.outcome = Outcome::Unknown,
                _ => {}
            }
            operation
        })
}

fn any_request() -> impl Strategy<Value = Request<u8>> {
    prop_oneof![
        Just(Request::Read),
        (0..3_u8).prop_map(Request::Write),
        (0..3_u8, 0..3_u8).prop_map(|(expected, new)| Request::CompareAndSet { expected, new }),
        (0..3_u8, proptest::option::of(0..3_u8))
            .prop_map(|(expected, new)| Request::Replace { expected, new }),
    ]
}

/// The definition itself: some of the operations without an answer, and all with one, in some order that keeps to time,
/// carried out on a register.
fn some_order_explains(history: &[Op]) -> bool {
    let open: Vec<&Op> = history
        .iter()
        .filter(|operation| operation.outcome != Outcome::Failed)
        .collect();
    explains_rest(&open, 0)
}

fn explains_rest(open: &[&Op], held: u8) -> bool {
    let answer_at = |operation: &Op| match operation.outcome {
        Outcome::Answered { at, .. } => Some(at),
        Outcome::Failed | Outcome::Unknown => None,
    };
    let first_answer = open.iter().filter_map(|operation| answer_at(operation)).min();
    let Some(first_answer) = first_answer else {
        return true;
    };
    let may_be_next = |operation: &&Op| operation.invoked_at <= first_answer;
    open.iter().enumerate().any(|(index, operation)| {
        may_be_next(operation)
            && outcomes(operation, held).into_iter().any(|after| {
                let mut rest = open.to_vec();
                rest.remove(index);
                explains_rest(&rest, after)
            })
    })
}

/// What a register that holds `held` may hold after the operation, if it may answer so at all. 99 is a value that nobody
/// names.
fn outcomes(operation: &Op, held: u8) -> Vec<u8> {
    let choices: &[u8] = &[0, 1, 2, 99];
    let possible: Vec<(u8, Answer<u8>)> = match &operation.request {
        Request::Read => vec![(held, Answer::Value(held))],
        Request::Write(value) => vec![(*value, Answer::Done)],
        Request::CompareAndSet { expected, new } if *expected == held => vec![(*new, Answer::Swapped(true))],
        Request::CompareAndSet { .. } => vec![(held, Answer::Swapped(false))],
        Request::Replace { expected, new } if *expected == held => {
            let chosen = new.as_ref().map_or(choices, std::slice::from_ref);
            chosen.iter().map(|now| (*now, Answer::Value(*now))).collect()
        }
        Request::Replace { .. } => vec![(held, Answer::Value(held))],
    };
    let fits = |told: &Answer<u8>| match &operation.outcome {
        Outcome::Answered { answer, .. } => answer == told,
        Outcome::Failed | Outcome::Unknown => true,
    };
    let possible = possible.into_iter().filter(|(_, told)| fits(told));
    possible.map(|(after, _)| after).collect()
}
