//! A Client Access Server's front door for real: Apache with mod_auth_gssapi and gss-ntlmssp asks for NTLM, and keeps
//! a log of who came.

use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::net::TcpStream;

use super::authority::Leaf;

/// A running Apache; it ends with this value.
pub struct Apache {
    pub http_port: u16,
    pub https_port: u16,
    directory: TempDir,
    process: Child,
}

/// A line of its log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visit {
    pub status: u16,
    /// Requests on the connection before this one.
    pub earlier: u32,
    /// As the NTLM of the other side understood it.
    pub user: Option<String>,
}

impl Apache {
    /// Whether everything is installed that it takes.
    ///
    /// # Panics
    /// Under CI, when it is not: there nothing is skipped.
    #[must_use]
    pub fn is_installed() -> bool {
        let missing: Vec<_> = NEEDED.iter().filter(|path| !Path::new(path).exists()).collect();
        let under_ci = std::env::var("CI").is_ok_and(|value| value == "true");
        assert!(missing.is_empty() || !under_ci, "missing: {missing:?}");
        if !missing.is_empty() {
            println!(
                "SKIPPED: install apache2, libapache2-mod-auth-gssapi and gss-ntlmssp (missing: {missing:?})"
            );
        }
        missing.is_empty()
    }

    /// `users` are lines of `DOMAIN:user:password`; `document` answers every request of who is let in.
    ///
    /// # Panics
    /// When it does not start, with what it says.
    pub async fn start(leaf: &Leaf, users: &str, document: &str) -> Self {
        let directory = TempDir::new().unwrap();
        // Its workers are another user.
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        let (http_port, https_port) = (free_port(), free_port());
        write_files(directory.path(), leaf, users, document);
        let config = config(directory.path(), http_port, https_port);
        write(directory.path(), "httpd.conf", &config);
        let process = Command::new(PROGRAM)
            .arg("-f")
            .arg(directory.path().join("httpd.conf"))
            .arg("-DFOREGROUND")
            .env("NTLM_USER_FILE", directory.path().join("users.txt"))
            .env("NETBIOS_COMPUTER_NAME", "EXCH01")
            .env("NETBIOS_DOMAIN_NAME", "CONTOSO")
            .stdin(Stdio::null())
            .spawn()
            .expect("apache2 is installed");
        let mut apache = Self {
            http_port,
            https_port,
            directory,
            process,
        };
        apache.wait_until_it_listens().await;
        apache
    }

    async fn wait_until_it_listens(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        for port in [self.http_port, self.https_port] {
            while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                let ended = self.process.try_wait().unwrap();
                let log = self.read("error.log");
                assert!(ended.is_none() && Instant::now() < deadline, "Apache: {log}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// Who came so far, once there are as many: Apache writes a line after it has answered.
    ///
    /// # Panics
    /// When fewer came.
    pub async fn visits(&self, count: usize) -> Vec<Visit> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let log = self.read("access.log");
            let visits: Vec<_> = log.lines().map(Visit::parse).collect();
            if visits.len() >= count {
                return visits;
            }
            assert!(Instant::now() < deadline, "only {visits:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.directory.path().join(name)).unwrap_or_default()
    }
}

impl Drop for Apache {
    fn drop(&mut self) {
        let id = i32::try_from(self.process.id()).unwrap();
        let _ = signal::kill(Pid::from_raw(id), Signal::SIGTERM);
        let _ = self.process.wait();
        if std::thread::panicking() {
            println!("{}\n{}", self.read("access.log"), self.read("error.log"));
        }
    }
}

impl Visit {
    fn parse(line: &str) -> Self {
        let mut words = line.splitn(3, ' ');
        let mut next = || words.next().unwrap();
        Self {
            status: next().parse().unwrap(),
            earlier: next().parse().unwrap(),
            // The log escapes backslashes.
            user: Some(next().replace("\\\\", "\\")).filter(|user| user != "-"),
        }
    }
}

fn write_files(directory: &Path, leaf: &Leaf, users: &str, document: &str) {
    write(directory, "users.txt", users);
    for name in ["leaf.pem", "leaf.key", "chain.pem"] {
        let text = fs::read_to_string(leaf.path().join(name)).unwrap_or_default();
        write(directory, name, &text);
    }
    fs::create_dir_all(directory.join("htdocs/EWS")).unwrap();
    write(directory, "htdocs/EWS/Exchange.asmx", document);
}

fn write(directory: &Path, name: &str, text: &str) {
    let mut file = fs::File::create(directory.join(name)).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.set_permissions(Permissions::from_mode(0o644)).unwrap();
}

fn config(directory: &Path, http_port: u16, https_port: u16) -> String {
    let mut config = format!("ServerRoot {SERVER_ROOT}\nDefine DIR {}\n", directory.display());
    for module in MODULES {
        writeln!(config, "LoadModule {module}_module modules/mod_{module}.so").unwrap();
    }
    let _ = write!(
        config,
        "Listen 127.0.0.1:{http_port}\nListen 127.0.0.1:{https_port}\n{SETTINGS}\
         <VirtualHost 127.0.0.1:{https_port}>\n{SECURED}</VirtualHost>\n"
    );
    config
}

/// As good as the system's word: it is free now.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

const MODULES: [&str; 10] = [
    "mpm_event",
    "authn_core",
    "authz_core",
    "authz_user",
    "headers",
    "setenvif",
    "ssl",
    "socache_shmcb",
    "mime",
    "auth_gssapi",
];

/// The handshake takes two requests: `GssapiConnectionBound` lets them belong together.
const SETTINGS: &str = r#"PidFile ${DIR}/httpd.pid
Mutex file:${DIR}
ServerName localhost
User www-data
Group www-data
DocumentRoot ${DIR}/htdocs
ErrorLog ${DIR}/error.log
LogLevel warn auth_gssapi:debug
LogFormat "%>s %k %u" visits
CustomLog ${DIR}/access.log visits
StartServers 1
ThreadsPerChild 16
ServerLimit 2
MaxRequestWorkers 32
TypesConfig /dev/null
AddType text/xml .asmx
KeepAlive On
MaxKeepAliveRequests 0
KeepAliveTimeout 60
<Location /EWS>
  AuthType GSSAPI
  AuthName EWS
  GssapiAllowedMech ntlmssp
  GssapiConnectionBound On
  GssapiBasicAuth Off
  Require valid-user
</Location>
"#;

const SECURED: &str = "SSLEngine on
SSLCertificateFile ${DIR}/leaf.pem
SSLCertificateKeyFile ${DIR}/leaf.key
SSLCertificateChainFile ${DIR}/chain.pem
";

const PROGRAM: &str = "/usr/sbin/apache2";
const SERVER_ROOT: &str = "/usr/lib/apache2";
const NEEDED: [&str; 3] = [
    PROGRAM,
    "/usr/lib/apache2/modules/mod_auth_gssapi.so",
    "/etc/gss/mech.d/mech.ntlmssp.conf",
];
const PATIENCE: Duration = Duration::from_secs(20);
