//! The simulated Exchange before exchangelib, a client that others wrote for real servers (installed by `./test`).
#![allow(clippy::unwrap_used, reason = "a test stops where it finds something")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use tandem_tests::peers::exchange::account::Account;
use tandem_tests::peers::exchange::mail_store::{Appointment, Status};
use tandem_tests::peers::exchange::subscriptions::{Kind, Timing};
use tandem_tests::peers::exchange::{Exchange, ExchangeSite};
use tokio::process::Command;

const ANA: &str = "ana@mail.example.com";
const ACCOUNT: &str = "svc@lab.test";
const PASSWORD: &str = "right";
const DEADLINE: Duration = Duration::from_secs(60);
/// 2026-11-23 09:00 UTC.
const NINE: i64 = 1_795_424_400;

#[tokio::test]
async fn exchangelib_understands_what_the_simulated_servers_say() {
    let Some(python) = python_with_exchangelib() else {
        assert_ne!(
            std::env::var("CI").as_deref(),
            Ok("true"),
            "exchangelib is missing"
        );
        println!("SKIPPED: no exchangelib; ./test installs it");
        return;
    };
    let exchange = Exchange::start(ExchangeSite {
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        tls: None,
        callback_tls: None,
        timing: Timing::default(),
        account: Account::new(&[ACCOUNT], PASSWORD),
    })
    .await
    .unwrap();
    exchange
        .ask(|servers| servers.store_mut().add(ANA, &[], "mbx1"))
        .await;
    let meeting = Appointment::new(NINE, NINE + 3600, Status::Busy);
    exchange.create(ANA, meeting).await.unwrap();
    let client = Command::new(python)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("third_party/exchange_client.py"))
        .arg(format!("http://{}/EWS/Exchange.asmx", exchange.address(0)))
        .args([ACCOUNT, PASSWORD, ANA])
        .kill_on_drop(true)
        .output();
    let calendar = async {
        create_when_heard(&exchange).await;
        std::future::pending::<()>().await;
    };
    let output = tokio::select! {
        output = tokio::time::timeout(DEADLINE, client) => output.unwrap().unwrap(),
        () = calendar => unreachable!("it waits for ever"),
    };
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let violations = exchange.ask(|servers| servers.violations().to_vec()).await;
    assert!(output.status.success(), "{said}\n{violations:?}");
    // The one liberty that is not ours: some proxies hold a compressed stream back until it ends.
    let liberties = ["a stream is asked for with Accept-Encoding: gzip, deflate"];
    assert_eq!(violations, liberties);
}

/// A meeting for the first stream, and one for the first callback that is answered.
async fn create_when_heard(exchange: &Exchange) {
    for kind in [Kind::Streaming, Kind::Push] {
        let heard = move |servers: &tandem_tests::peers::exchange::server::Servers| {
            let mut active = servers.all()[0].active();
            active.any(|active| active.kind == kind && active.is_heard)
        };
        // The client says what was wrong, when this waits in vain.
        let _ = exchange.wait_until("the client listens", DEADLINE, heard).await;
        let meeting = Appointment::new(NINE + 7200, NINE + 9000, Status::Tentative);
        let _ = exchange.create(ANA, meeting).await;
    }
}

/// Where `./test` puts it.
fn python_with_exchangelib() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?;
    let python = root.join("target/tools/exchangelib/bin/python");
    python.exists().then_some(python)
}
