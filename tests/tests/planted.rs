//! Bugs that are planted on purpose: the unit test beside each fails with it, and passes without.
#![allow(clippy::unwrap_used, reason = "what cannot be run proves nothing")]

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use futures::future::ready;
use futures::{StreamExt, stream};
use tandem_planted::{Bug, CHOICE};
use tandem_tests::cluster::binaries;
use tokio::time::timeout;

#[test]
fn every_bug_has_a_unit_test() {
    let listed: BTreeSet<Bug> = FOUND_BY.iter().map(|(bug, ..)| *bug).collect();
    assert_eq!(listed, Bug::ALL.into_iter().collect());
}

#[tokio::test]
async fn every_bug_is_found_by_its_unit_test() {
    let programs = binaries::unit_tests().unwrap();
    let runs = FOUND_BY.map(|(bug, (crate_name, module), test)| {
        let program = programs[crate_name].clone();
        async move {
            let test = format!("{module}::{test}");
            let (succeeded, said) = run(&program, std::slice::from_ref(&test), Some(bug)).await;
            let verdict = match (succeeded, said.contains("1 failed")) {
                (true, _) => "does not find",
                (false, true) => return None,
                (false, false) => "does not run with",
            };
            Some(format!("{test} {verdict} {bug:?}:\n{said}"))
        }
    });
    let survivors: Vec<String> = stream::iter(runs)
        .buffer_unordered(AT_A_TIME)
        .filter_map(ready)
        .collect()
        .await;
    assert!(survivors.is_empty(), "{}", survivors.join("\n"));
}

#[tokio::test]
async fn no_bug_shows_itself_unasked() {
    for (crate_name, program) in binaries::unit_tests().unwrap() {
        let own = FOUND_BY.iter().filter(|(_, room, _)| room.0 == crate_name);
        let tests: BTreeSet<String> = own.map(|(_, room, test)| format!("{}::{test}", room.1)).collect();
        let tests: Vec<String> = tests.into_iter().collect();
        if tests.is_empty() {
            continue;
        }
        let (succeeded, said) = run(&program, &tests, None).await;
        let passed = format!("{} passed", tests.len());
        assert!(succeeded && said.contains(&passed), "{crate_name}: {said}");
    }
}

/// Whether the tests pass, and what their program says.
async fn run(program: &Path, tests: &[String], bug: Option<Bug>) -> (bool, String) {
    let mut command = tokio::process::Command::new(program);
    command
        .arg("--exact")
        .args(tests)
        .env_remove(CHOICE)
        .kill_on_drop(true);
    // A property that a bug breaks says nothing of the code as it stands.
    command.env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1");
    if let Some(bug) = bug {
        command.env(CHOICE, bug.name());
    }
    match timeout(PATIENCE, command.output()).await {
        Ok(output) => {
            let output = output.unwrap();
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            (output.status.success(), said)
        }
        Err(_) => (false, "it does not end".to_owned()),
    }
}

const AT_A_TIME: usize = 2;
const PATIENCE: Duration = Duration::from_secs(30);

/// Each bug, and a unit test that it fails.
const FOUND_BY: [(Bug, Room, &str); 32] = [
    (Bug::AppendBeforeSync, CRASHES, "power_fails_during_any_operation"),
    (Bug::EpochUnchecked, SESSIONS, "a_former_owner_is_refused"),
    (
        Bug::SuccessorAmongAll,
        NODES,
        "sessions_of_a_lost_node_go_to_their_successors_in_order_with_their_epochs_raised",
    ),
    (
        Bug::AnswerBeforeCommit,
        OPENING,
        "a_200_leaves_only_after_the_commit",
    ),
    (
        Bug::DuplicateIntentExecuted,
        INTENTS,
        "a_successor_learns_of_the_intent_and_of_its_result",
    ),
    (
        Bug::SnapshotWithoutIntents,
        LAYOUT,
        "a_state_is_the_same_in_either_layout",
    ),
    (
        Bug::VoteNotPersisted,
        RECOVERY,
        "what_was_acknowledged_survives_a_crash_at_once",
    ),
    (
        Bug::DirectoryNotSynced,
        CRASHES,
        "power_fails_during_any_operation",
    ),
    (
        Bug::FenceOff,
        FENCE,
        "a_former_owner_is_answered_481_and_the_client_receives_nothing",
    ),
    (
        Bug::LossOfAnyIncarnation,
        NODES,
        "a_loss_of_an_earlier_incarnation_is_ignored",
    ),
    (
        Bug::SnapshotInstalledUntold,
        SNAPSHOTS,
        "who_follows_the_state_is_told_that_a_snapshot_replaced_it",
    ),
    (
        Bug::UnknownOutcomeApplied,
        MESSAGES,
        "only_what_is_known_to_be_committed_is_called_that",
    ),
    (
        Bug::IsolatedNodeGoesOn,
        AUTHORITY,
        "a_node_goes_on_while_every_front_end_that_answers_hears_no_leader",
    ),
    (
        Bug::EpochStays,
        NODES,
        "sessions_of_a_lost_node_go_to_their_successors_in_order_with_their_epochs_raised",
    ),
    (
        Bug::CommandNotHeldForIntent,
        ADOPTION,
        "a_repeated_command_with_a_result_gets_that_result",
    ),
    (
        Bug::WitnessNeverLeads,
        WITNESS,
        "the_witness_takes_the_lead_when_the_only_node_lacks_entries",
    ),
    (
        Bug::OwnLossUnnoticed,
        FOLLOWING,
        "a_node_that_learns_of_its_loss_from_a_snapshot_alone_registers_again",
    ),
    (
        Bug::TruncatedEntryRecovered,
        RECOVERY,
        "what_was_cut_off_stays_away_after_a_crash",
    ),
    (
        Bug::SnapshotNamesLaterEntry,
        SNAPSHOTS,
        "a_snapshot_names_the_last_entry_that_it_holds",
    ),
    (
        Bug::NoFastTakeOver,
        WITNESS,
        "a_node_takes_over_once_when_the_leader_died",
    ),
    (
        Bug::AnswerToAnotherTransaction,
        DEATH,
        "later_requests_of_the_dialog_wait_for_the_re_sent_one",
    ),
    (
        Bug::ResentUnmarked,
        DEATH,
        "a_request_in_a_dialog_goes_to_the_successor_once_its_node_is_refused",
    ),
    (
        Bug::ReturnedDialogForgotten,
        MOVED,
        "when_the_session_comes_back_the_former_owner_is_asked_again",
    ),
    (
        Bug::SharedMonitorFreed,
        MONITORS,
        "sessions_that_watch_one_device_share_its_monitor",
    ),
    (
        Bug::EventBeforeAnswer,
        CALLS,
        "the_answer_to_makecall_names_the_line_byte_for_byte_and_comes_before_the_calls_events",
    ),
    (
        Bug::EventsOutOfOrder,
        ADOPTION,
        "a_repeated_command_with_an_intent_alone_is_answered_from_the_snapshot_before_any_event",
    ),
    (
        Bug::CseqBlockTwice,
        ADOPTION,
        "a_successor_starts_the_monitor_compares_and_goes_on_with_higher_cseq_numbers",
    ),
    (
        Bug::UserErrorCountsForCas,
        CALENDAR_ROWS,
        "a_mailbox_that_is_not_there_is_no_fault_of_its_cas",
    ),
    (
        Bug::EdgeInLocalTime,
        CALENDAR_EDGES,
        "every_edge_is_published_within_the_spread_and_the_spread_is_used",
    ),
    (
        Bug::ForeignCallbackRefused,
        CALENDAR_ROWS,
        "stale_callbacks_are_told_to_end_and_those_of_others_are_kept",
    ),
    (
        Bug::LimitOffByOne,
        LIMITS,
        "the_requests_behind_a_re_sent_one_are_bounded",
    ),
    (
        Bug::IsolatedSessionExpires,
        RESILIENCE,
        "a_session_of_an_isolated_node_expires_when_the_node_is_itself_again",
    ),
];

/// A crate, and a module of unit tests in it.
type Room = (&'static str, &'static str);

const ADOPTION: Room = ("tandem_node", "gateway::tests::adoption");
const AUTHORITY: Room = ("tandem_cluster", "authority::tests");
const CALENDAR_EDGES: Room = ("tandem_node", "calendar::tests::edges");
const CALENDAR_ROWS: Room = ("tandem_node", "calendar::tests::rows");
const CALLS: Room = ("tandem_node", "gateway::tests::calls");
const CRASHES: Room = ("tandem_raft", "io::crash_tests");
const DEATH: Room = ("tandem_lb", "balancer::tests::death");
const FENCE: Room = ("tandem_lb", "balancer::tests::fence");
const FOLLOWING: Room = ("tandem_node", "gateway::tests::following");
const MESSAGES: Room = ("tandem_raft", "io::messages::tests");
const INTENTS: Room = ("tandem_cluster", "state::intents::tests");
const LAYOUT: Room = ("tandem_cluster", "state::layout::tests");
const LIMITS: Room = ("tandem_lb", "balancer::tests::limits");
const MONITORS: Room = ("tandem_node", "cti::monitor_tests");
const MOVED: Room = ("tandem_lb", "balancer::tests::moved");
const NODES: Room = ("tandem_cluster", "state::nodes::tests");
const OPENING: Room = ("tandem_node", "gateway::tests::opening");
const RECOVERY: Room = ("tandem_raft", "io::recovery_tests");
const RESILIENCE: Room = ("tandem_node", "gateway::tests::resilience");
const SESSIONS: Room = ("tandem_cluster", "state::sessions::tests");
const SNAPSHOTS: Room = ("tandem_raft", "io::snapshot_tests");
const WITNESS: Room = ("tandem_cluster", "witness::tests");
