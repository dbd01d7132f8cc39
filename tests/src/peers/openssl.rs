//! OpenSSL as the other end of TLS: `openssl s_server` with any certificate, and what its command line can make.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// A running server; it ends with this value.
pub struct OpensslServer {
    pub address: SocketAddr,
    _process: Child,
}

impl OpensslServer {
    /// `files` is where the server looks for those that `options` name.
    ///
    /// # Panics
    /// When OpenSSL is not installed or does not take the options.
    pub async fn start(files: &Path, options: &[&str]) -> Self {
        let mut process = Command::new("openssl")
            .args(["s_server", "-www", "-accept", "127.0.0.1:0"])
            .args(options)
            .current_dir(files)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("openssl is installed");
        let output = BufReader::new(process.stdout.take().unwrap());
        let address = timeout(PATIENCE, accepting_address(output)).await;
        Self {
            address: address.expect("s_server says where it accepts"),
            _process: process,
        }
    }
}

async fn accepting_address(output: BufReader<tokio::process::ChildStdout>) -> SocketAddr {
    let mut lines = output.lines();
    while let Some(line) = lines.next_line().await.unwrap() {
        if let Some(address) = line.strip_prefix("ACCEPT ") {
            // The pipe stays open: the server writes a line per connection.
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return address.parse().unwrap();
        }
    }
    panic!("s_server ended: see its messages above");
}

/// Runs one command of OpenSSL in a directory and answers what it printed.
///
/// # Panics
/// When it fails.
pub fn openssl(directory: &Path, arguments: &str) -> String {
    let output = std::process::Command::new("openssl")
        .args(arguments.split_whitespace())
        .current_dir(directory)
        .stdin(Stdio::null())
        .output()
        .expect("openssl is installed");
    assert!(
        output.status.success(),
        "openssl {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

const PATIENCE: Duration = Duration::from_secs(20);
