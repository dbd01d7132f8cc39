//! OpenSSL as the other end of TLS: `openssl s_server` and `openssl s_client` with any certificate, and what its command
//! line can make.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::tools::is_installed;

/// Whether it can be used; says that the test is skipped when it cannot.
///
/// # Panics
/// When it cannot under CI, where nothing is skipped.
#[must_use]
pub fn openssl_is_installed() -> bool {
    is_installed("openssl", "openssl")
}

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

async fn accepting_address(output: BufReader<ChildStdout>) -> SocketAddr {
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

/// A client that is connected, or tries to be; it ends with this value.
#[derive(Debug)]
pub struct OpensslClient {
    process: Child,
    input: ChildStdin,
    output: ChildStdout,
}

impl OpensslClient {
    /// `files` is where the client looks for those that `options` name.
    ///
    /// # Panics
    /// When OpenSSL is not installed.
    #[must_use]
    pub fn connect(files: &Path, to: SocketAddr, options: &[&str]) -> Self {
        let mut process = Command::new("openssl")
            .args(["s_client", "-quiet", "-connect", &to.to_string()])
            .args(options)
            .current_dir(files)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("openssl is installed");
        Self {
            input: process.stdin.take().unwrap(),
            output: process.stdout.take().unwrap(),
            process,
        }
    }

    /// Sends a request and answers the head of what comes back.
    ///
    /// # Errors
    /// With what OpenSSL says when the connection ends instead.
    ///
    /// # Panics
    /// When neither comes.
    pub async fn ask(mut self, request: &str) -> Result<String, String> {
        // Whoever is refused may be gone before it could write.
        let _ = self.input.write_all(request.as_bytes()).await;
        let heard = timeout(PATIENCE, read_head(&mut self.output)).await;
        match heard.expect("an answer, or the end of the connection") {
            Some(head) => Ok(head),
            None => Err(self.last_words().await),
        }
    }

    async fn last_words(mut self) -> String {
        let mut said = String::new();
        let mut errors = self.process.stderr.take().unwrap();
        let read = timeout(PATIENCE, errors.read_to_string(&mut said)).await;
        read.expect("the client ends with its connection").unwrap();
        said
    }
}

/// `None` when the output ends before the head does.
async fn read_head(output: &mut ChildStdout) -> Option<String> {
    let mut head = String::new();
    let mut lines = BufReader::new(output);
    while lines.read_line(&mut head).await.ok()? > 0 {
        if head.ends_with("\r\n\r\n") {
            return Some(head);
        }
    }
    None
}

/// Plain TCP in, TLS out: one client of OpenSSL for each connection. Everything ends with this value.
#[derive(Debug)]
pub struct OpensslTunnel {
    pub address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl OpensslTunnel {
    /// Listens at a port of its own on the address of `near`; `options` are as for a client.
    ///
    /// # Panics
    /// When nobody can listen there.
    pub async fn open(near: SocketAddr, files: &Path, to: SocketAddr, options: &[&str]) -> Self {
        let listener = TcpListener::bind(SocketAddr::new(near.ip(), 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let files = files.to_owned();
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let options: Vec<&str> = options.iter().map(String::as_str).collect();
                tokio::spawn(carry(stream, OpensslClient::connect(&files, to, &options)));
            }
        });
        Self { address, accepting }
    }
}

impl Drop for OpensslTunnel {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Until one of the two ends.
async fn carry(mut stream: TcpStream, mut client: OpensslClient) {
    let (mut from, mut to) = stream.split();
    tokio::select! {
        _ = tokio::io::copy(&mut from, &mut client.input) => {}
        _ = tokio::io::copy(&mut client.output, &mut to) => {}
    }
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
