//! Reads the account and its secret from the configured place, and again whenever the file changes.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tandem_runtime::io::watched_files::FileStamp;
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::config::{
    ExchangeConfig, OAuthConfig, PasswordMethods, PasswordSource, SecretError, ServiceAccount,
};
use tandem_exchange::credential::{
    Account, AccountError, Authentication, Credential, NtlmVersions, OAuthClient, Secret,
};

/// Why no credential could be read.
#[derive(Debug, Error)]
pub enum CredentialError {
    #[error("{source}; wanted: {}", .source.remedy())]
    Secret {
        #[from]
        source: SecretError,
    },
    #[error("exchange.account: {0}")]
    Account(#[from] AccountError),
}

/// The credential for all CAS, kept up to date by [`Self::follow`].
pub struct CredentialSource {
    config: ExchangeConfig,
    current: Arc<ArcSwap<Credential>>,
    /// Counts the changes.
    changed: watch::Sender<u64>,
}

impl CredentialSource {
    /// # Errors
    /// If the secret cannot be read, so that a node reports the problem when it starts.
    pub fn open(config: &ExchangeConfig) -> Result<Self, CredentialError> {
        Ok(Self {
            current: Arc::new(ArcSwap::from_pointee(read(config)?)),
            config: config.clone(),
            changed: watch::Sender::new(0),
        })
    }

    #[must_use]
    pub fn current(&self) -> Arc<ArcSwap<Credential>> {
        self.current.clone()
    }

    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Checks the file every few seconds, for ever. If it cannot be used, the former credential stays in force.
    pub async fn follow(self) {
        let Some(path) = self.file() else {
            return std::future::pending().await;
        };
        let mut seen = FileStamp::at(&path);
        let mut poll = interval(POLL_INTERVAL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            poll.tick().await;
            self.look(&path, &mut seen);
        }
    }

    fn look(&self, path: &Path, seen: &mut Option<FileStamp>) {
        let now = FileStamp::at(path);
        if now == *seen {
            return;
        }
        *seen = now;
        match read(&self.config) {
            Ok(credential) if credential == **self.current.load() => {}
            Ok(credential) => {
                self.current.store(Arc::new(credential));
                self.changed.send_modify(|changes| *changes += 1);
                info!(file = %path.display(), "the credential for Exchange was reloaded");
            }
            Err(error) => {
                warn!(%error, "the changed credential cannot be used; the former one stays in force")
            }
        }
    }

    fn file(&self) -> Option<std::path::PathBuf> {
        match &self.config.account {
            ServiceAccount::Password {
                password: PasswordSource::File(path),
                ..
            } => Some(path.clone()),
            ServiceAccount::Password {
                password: PasswordSource::Environment(_),
                ..
            } => None,
            ServiceAccount::OAuth(oauth) => Some(oauth.client_secret_file.clone()),
        }
    }
}

fn read(config: &ExchangeConfig) -> Result<Credential, CredentialError> {
    let secret = Secret::new(config.read_secret()?);
    Ok(match &config.account {
        ServiceAccount::Password { account, methods, .. } => Credential {
            account: Account::parse(account)?,
            password: secret,
            authentication: authentication(*methods),
        },
        ServiceAccount::OAuth(oauth) => of_client(oauth, secret)?,
    })
}

fn authentication(methods: PasswordMethods) -> Authentication {
    let versions = |ntlm_v1| match ntlm_v1 {
        true => NtlmVersions::V1Allowed,
        false => NtlmVersions::V2Only,
    };
    match methods {
        PasswordMethods::Negotiate { ntlm_v1 } => Authentication::Negotiated(versions(ntlm_v1)),
        PasswordMethods::Ntlm { ntlm_v1 } => Authentication::Ntlm(versions(ntlm_v1)),
        PasswordMethods::Basic => Authentication::Basic,
    }
}

/// An OAuth client has no password; its id is shown in place of an account.
fn of_client(oauth: &OAuthConfig, secret: Secret) -> Result<Credential, CredentialError> {
    Ok(Credential {
        account: Account::parse(&oauth.client_id)?,
        password: Secret::new(String::new()),
        authentication: Authentication::OAuth(OAuthClient {
            client_id: oauth.client_id.clone(),
            client_secret: secret,
            token_url: oauth.token_url.clone(),
            scope: oauth.scope.clone(),
        }),
    })
}

const POLL_INTERVAL: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use tandem_runtime::config::read_text;

    use super::*;

    fn write(path: &Path, password: &str) {
        let new = path.with_extension("new");
        std::fs::write(&new, password).unwrap();
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::rename(&new, path).unwrap();
    }

    fn open(folder: &Path) -> CredentialSource {
        let text = "[node]\nid = 1\ndata_directory = \"data\"\n[sip]\nlisten = \"127.0.0.1:1\"\n\
            [directory]\nfile = \"directory.toml\"\n[[cti.connection]]\nname = \"a\"\naddress = \"127.0.0.1:2\"\n\
            [cluster]\nlisten = \"127.0.0.1:3\"\nplaintext_on_loopback = true\n\
            [[cluster.member]]\nid = 1\nkind = \"node\"\naddress = \"127.0.0.1:3\"\n\
            [exchange]\naccount = 'LAB\\svc'\npassword_file = \"password\"\ntrust_directory = \"trust\"\n";
        let config = read_text(&folder.join("node.toml"), text, crate::config::read).unwrap();
        CredentialSource::open(&config.exchange.unwrap()).unwrap()
    }

    #[test]
    fn a_password_that_changes_in_its_file_is_the_next_one_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        write(&path, "before\n");
        let source = open(folder.path());
        let (current, changes) = (source.current(), source.changes());
        assert_eq!(current.load().password.reveal(), "before");
        assert_eq!(current.load().account.to_string(), "LAB\\svc");
        let mut seen = FileStamp::at(&path);
        source.look(&path, &mut seen);
        assert_eq!(*changes.borrow(), 0);
        write(&path, "after");
        source.look(&path, &mut seen);
        assert_eq!(current.load().password.reveal(), "after");
        assert_eq!(*changes.borrow(), 1);
    }

    #[test]
    fn a_file_that_cannot_be_used_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        write(&path, "before");
        let source = open(folder.path());
        let current = source.current();
        std::fs::write(&path, "readable by all").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        source.look(&path, &mut None);
        assert_eq!(current.load().password.reveal(), "before");
        assert_eq!(*source.changes().borrow(), 0);
    }
}
