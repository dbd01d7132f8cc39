//! What is wrong gets the documented answer or close, is counted, and disturbs nobody else.

use std::time::Duration;

use tandem_tests::cluster::{ClusterOptions, DEADLINE, Member};
use tandem_tests::peers::csta;
use tandem_tests::peers::stranger::{Letter, Reply, Stranger};
use tandem_tests::scenario::Scene;

/// Signed in and never to be disturbed.
const USERS: usize = 20;
/// In the directory, used by the strangers.
const SPARE: usize = 10;
const LINE_OF_NOBODY: &str = "tel:99999;phone-context=dialstring";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_no_sip_close_their_connection_and_are_counted_by_reason() {
    let mut scene = scene().await;
    let good = Letter::invite("user25", "tel:40025;phone-context=dialstring");
    let without_length = Letter {
        content_length: Some(String::new()),
        ..good.clone()
    };
    let negative = Letter {
        content_length: Some("-5".to_owned()),
        ..good.clone()
    };
    let endless = Letter {
        content_length: Some("99999999999999".to_owned()),
        ..good.clone()
    };
    let twice = Letter {
        extra: vec!["l: 0".to_owned()],
        ..good.clone()
    };
    let oversize = Letter {
        extra: vec![format!("Subject: {}", "x".repeat(20 << 10))],
        ..good.clone()
    };
    let much = (0..10)
        .map(|number| format!("X-{number}: {}", "x".repeat(8 << 10)))
        .collect();
    let much = Letter {
        extra: much,
        ..good.clone()
    };
    let cases: Vec<(&str, Vec<u8>, &[Reply])> = vec![
        (
            "garbage",
            b"\x01\x02 what is this\r\n\r\n".to_vec(),
            &[Reply::Closed],
        ),
        (
            "HTTP",
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
            &[Reply::Closed],
        ),
        (
            "TLS",
            vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3],
            &[Reply::Closed],
        ),
        (
            "no Content-Length",
            without_length.write().to_vec(),
            &[Reply::Status(400), Reply::Closed],
        ),
        (
            "negative Content-Length",
            negative.write().to_vec(),
            &[Reply::Status(400), Reply::Closed],
        ),
        (
            "two lengths",
            twice.write().to_vec(),
            &[Reply::Status(400), Reply::Closed],
        ),
        (
            "endless body",
            endless.write().to_vec(),
            &[Reply::Status(513), Reply::Closed],
        ),
        (
            "a long header line",
            oversize.write().to_vec(),
            &[Reply::Status(513), Reply::Closed],
        ),
        (
            "a long head",
            much.write().to_vec(),
            &[Reply::Status(513), Reply::Closed],
        ),
    ];
    let count = cases.len();
    let before = framing_errors(&scene).await;
    for (name, bytes, expected) in cases {
        let mut stranger = Stranger::connect(scene.cluster.addresses().vip()).await.unwrap();
        stranger.send_as_much_as_possible(&bytes).await;
        for (number, wanted) in expected.iter().enumerate() {
            let reply = stranger.reply(DEADLINE).await;
            let reply = reply.unwrap_or_else(|error| panic!("{name}: {error:#}"));
            // docs/spec/load-balancing.md §6.6: 513, or 400 where the head is not whole.
            let alike = *wanted == Reply::Status(513) && reply == Reply::Status(400);
            assert!(reply == *wanted || alike, "{name}: reply {number} is {reply:?}");
        }
    }
    let counted = framing_errors(&scene).await - before;
    assert!(
        counted >= f64::from(u32::try_from(count).unwrap()),
        "{counted} of {count} are counted"
    );
    nobody_is_disturbed(&mut scene).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_message_and_silence_is_closed_while_others_go_on() {
    let mut scene = scene().await;
    let letter = Letter::invite("user25", "tel:40025;phone-context=dialstring").write();
    let mut half = Stranger::connect(scene.cluster.addresses().vip()).await.unwrap();
    half.send(&letter[..letter.len() / 3]).await.unwrap();
    let mut silent = Stranger::connect(scene.cluster.addresses().vip()).await.unwrap();
    nobody_is_disturbed(&mut scene).await;
    assert_eq!(half.reply(DEADLINE).await.unwrap(), Reply::Closed);
    // OCS may open a connection early and say nothing: that alone is no fault.
    assert!(silent.reply(Duration::from_millis(100)).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn well_framed_requests_that_make_no_sense_are_refused_one_by_one() {
    let mut scene = scene().await;
    let line = |user: usize| format!("tel:{};phone-context=dialstring", 40_000 + user);
    let good = Letter::invite("user25", &line(25));
    let snapshot = csta::snapshot_device(&line(0));
    let of_unknown_dialog = Letter {
        to_tag: Some("n1-0123456789abcdef0123".to_owned()),
        ..Letter::info("user25", &snapshot)
    };
    let smuggled = Letter {
        extra: vec!["Content_Length: 3".to_owned()],
        ..good.clone()
    };
    let cases = [
        ("unknown user", Letter::invite("nobody", &line(25)), vec![403]),
        (
            "unknown line",
            Letter::invite("user25", LINE_OF_NOBODY),
            vec![404],
        ),
        (
            "somebody else's line",
            Letter::invite("user25", &line(26)),
            vec![403],
        ),
        (
            "INFO outside a dialog",
            Letter::info("user25", &snapshot),
            vec![481],
        ),
        ("INFO in a dialog that never was", of_unknown_dialog, vec![481]),
        (
            "broken XML",
            Letter {
                body: "<RequestSystemStatus".to_owned(),
                ..good.clone()
            },
            vec![400],
        ),
        (
            "no body",
            Letter {
                body: String::new(),
                ..good.clone()
            },
            vec![400, 415],
        ),
        (
            "another content type",
            Letter {
                content_type: "application/sdp",
                ..good.clone()
            },
            vec![415],
        ),
        ("a look-alike of Content-Length", smuggled, vec![400]),
        (
            "an unknown extension",
            Letter {
                extra: vec!["Require: teleportation".to_owned()],
                ..good.clone()
            },
            vec![420],
        ),
    ];
    // All over one connection, which must survive every one of them.
    let mut stranger = Stranger::connect(scene.cluster.addresses().vip()).await.unwrap();
    for (name, letter, accepted) in cases {
        stranger
            .send(&letter.write())
            .await
            .unwrap_or_else(|error| panic!("{name}: {error:#}"));
        let reply = stranger
            .reply(DEADLINE)
            .await
            .unwrap_or_else(|error| panic!("{name}: {error:#}"));
        let Reply::Status(status) = reply else {
            panic!("{name}: the connection was closed")
        };
        assert!(
            accepted.contains(&status),
            "{name}: {status} is none of {accepted:?}"
        );
    }
    stranger.send(&good.write()).await.unwrap();
    assert_eq!(stranger.reply(DEADLINE).await.unwrap(), Reply::Status(200));
    nobody_is_disturbed(&mut scene).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_csta_inside_a_dialog_is_answered_and_the_dialog_goes_on() {
    let mut scene = scene().await;
    let statuses = send_bodies(
        &scene,
        vec![
            "<MonitorStart".to_owned(),
            String::new(),
            csta::document("SummonDemons", ""),
            csta::answer_call("no-such-call", "tel:40000;phone-context=dialstring"),
            csta::document("MakeCall", ""),
        ],
    )
    .await;
    println!("{statuses:?}");
    assert_eq!(statuses[0], (400, None));
    assert!(matches!(statuses[1].0, 400 | 415), "{statuses:?}");
    assert_eq!(
        statuses[2],
        (200, Some("operation/serviceNotSupported".to_owned()))
    );
    for (status, error) in &statuses[3..] {
        assert!(*status == 200 && error.is_some(), "{statuses:?}");
    }
    nobody_is_disturbed(&mut scene).await;
}

/// User 0 sends each body as INFO in his dialog; status and CSTA error of each answer.
async fn send_bodies(scene: &Scene, bodies: Vec<String>) -> Vec<(u16, Option<String>)> {
    let requests: Vec<_> = scene
        .ocs
        .ask(move |front_end| bodies.iter().map(|body| front_end.info(0, body)).collect())
        .await;
    scene.wait_until_answered().await.unwrap();
    scene
        .ocs
        .ask(move |front_end| {
            let sent = requests
                .into_iter()
                .map(|request| &front_end.user(0).requests()[request]);
            sent.map(|sent| {
                let answer = sent.answer().unwrap();
                (answer.status, answer.csta_error())
            })
            .collect()
        })
        .await
}

async fn scene() -> Scene {
    let options = ClusterOptions {
        users: USERS + SPARE,
        ..ClusterOptions::default()
    };
    let scene = Scene::start(options, 1).await.unwrap();
    scene.sign_in(0..USERS).await.unwrap();
    scene
}

async fn nobody_is_disturbed(scene: &mut Scene) {
    scene.everyone_gets_a_snapshot().await.unwrap();
    scene.every_phone_rings_and_stops().await.unwrap();
    scene.verdict().await.unwrap();
}

async fn framing_errors(scene: &Scene) -> f64 {
    scene
        .cluster
        .metrics(Member::Lb)
        .await
        .unwrap()
        .sum("tandem_lb_framing_errors_total", &[])
}
