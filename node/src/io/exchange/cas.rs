//! What the client knows about one CAS: idle connections, schema version, and how it expects a login.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tandem_cluster::CasEndpoint;
use tandem_runtime::io::environment;
use tokio::sync::Semaphore;

use super::client::{ClientOptions, Transport};
use super::connection::{Connection, authority};
use tandem_exchange::authorization::Scheme;
use tandem_exchange::credential::Credential;
use tandem_exchange::ews::{Failure, SchemaVersion};
use tandem_exchange::version_ladder::VersionLadder;

/// The credential, and how it has fared so far.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) credential: Arc<Credential>,
    /// Some CAS accepted it, and none has refused it since.
    proven: AtomicBool,
    refusals: AtomicU64,
}

impl Identity {
    pub(super) fn new(credential: Arc<Credential>) -> Self {
        Self {
            credential,
            proven: AtomicBool::new(false),
            refusals: AtomicU64::new(0),
        }
    }

    pub(super) fn is_proven(&self) -> bool {
        self.proven.load(Ordering::Acquire)
    }

    pub(super) fn refusals(&self) -> u64 {
        self.refusals.load(Ordering::Acquire)
    }

    pub(super) fn accepted(&self) {
        self.proven.store(true, Ordering::Release);
    }

    pub(super) fn refused(&self) {
        self.proven.store(false, Ordering::Release);
        self.refusals.fetch_add(1, Ordering::AcqRel);
    }
}

/// A connection between requests, with its credential: it is never used for another one.
pub(super) struct Pooled {
    pub(super) connection: Connection,
    pub(super) identity: Arc<Identity>,
    /// By NTLM: no header is needed any more.
    pub(super) authenticated: bool,
    idle_since: Instant,
}

impl Pooled {
    pub(super) fn new(connection: Connection, identity: Arc<Identity>) -> Self {
        Self {
            connection,
            identity,
            authenticated: false,
            idle_since: environment::now(),
        }
    }
}

pub(super) struct Cas {
    pub(super) endpoint: CasEndpoint,
    pub(super) connections: Semaphore,
    pub(super) streams: Semaphore,
    /// Held while an unproven account is tried: one request at a time, because the directory counts failures.
    pub(super) turn: tokio::sync::Mutex<()>,
    transport: Transport,
    idle_max: usize,
    idle_timeout: Duration,
    idle: Mutex<Idle>,
    ladder: Mutex<VersionLadder>,
    scheme: Mutex<Option<Scheme>>,
}

#[derive(Default)]
struct Idle {
    /// The longest idle first.
    connections: VecDeque<Pooled>,
    is_swept: bool,
    is_closed: bool,
}

impl Cas {
    pub(super) fn new(endpoint: CasEndpoint, options: &ClientOptions) -> Self {
        Self {
            endpoint,
            connections: Semaphore::new(options.connections_max),
            streams: Semaphore::new(options.streams_max),
            turn: tokio::sync::Mutex::new(()),
            transport: options.transport,
            idle_max: options.idle_max,
            idle_timeout: options.idle_timeout,
            idle: Mutex::default(),
            ladder: Mutex::default(),
            scheme: Mutex::default(),
        }
    }

    pub(super) fn authority(&self) -> String {
        authority(&self.endpoint)
    }

    /// Without the port if it is the default one.
    pub(super) fn host_header(&self) -> String {
        let authority = self.authority();
        let usual = match self.transport {
            Transport::Tls => ":443",
            Transport::Plain => ":80",
        };
        authority.strip_suffix(usual).unwrap_or(&authority).to_owned()
    }

    /// The most recently used one, which is the least likely to have been closed by the server.
    pub(super) fn take_idle(&self, identity: &Arc<Identity>) -> Option<Pooled> {
        let mut idle = lock(&self.idle);
        let now = environment::now();
        while let Some(pooled) = idle.connections.pop_back() {
            let is_ours = Arc::ptr_eq(&pooled.identity, identity);
            if is_ours && self.is_usable(&pooled, now) {
                return Some(pooled);
            }
        }
        None
    }

    pub(super) fn put_idle(self: &Arc<Self>, mut pooled: Pooled) {
        pooled.idle_since = environment::now();
        let mut idle = lock(&self.idle);
        if idle.is_closed || pooled.connection.is_closed() || self.idle_max == 0 {
            return;
        }
        if idle.connections.len() >= self.idle_max {
            idle.connections.pop_front();
        }
        idle.connections.push_back(pooled);
        if !idle.is_swept {
            idle.is_swept = true;
            tokio::spawn(sweep(Arc::downgrade(self)));
        }
    }

    /// It was removed from the configuration: requests under way may finish, connections are not kept.
    pub(super) fn close(&self) {
        let mut idle = lock(&self.idle);
        idle.is_closed = true;
        idle.connections.clear();
    }

    /// Closes connections that have been idle for too long; returns when to look again, `None` if none is left.
    fn close_overdue(&self) -> Option<Instant> {
        let mut idle = lock(&self.idle);
        let now = environment::now();
        idle.connections.retain(|pooled| self.is_usable(pooled, now));
        let oldest = idle.connections.front().map(|pooled| pooled.idle_since);
        idle.is_swept = oldest.is_some();
        Some(oldest? + self.idle_timeout)
    }

    fn is_usable(&self, pooled: &Pooled, now: Instant) -> bool {
        !pooled.connection.is_closed() && now.duration_since(pooled.idle_since) < self.idle_timeout
    }

    pub(super) fn version(&self) -> SchemaVersion {
        lock(&self.ladder).version(environment::now())
    }

    pub(super) fn version_refused(&self, version: SchemaVersion) -> Option<SchemaVersion> {
        lock(&self.ladder).refused(version, environment::now())
    }

    /// The most recently used one, if it may be used.
    pub(super) fn scheme(&self, may: &[Scheme]) -> Scheme {
        let known = lock(&self.scheme).filter(|scheme| may.contains(scheme));
        known.or_else(|| may.first().copied()).unwrap_or(Scheme::Ntlm)
    }

    pub(super) fn remember_scheme(&self, scheme: Option<Scheme>) {
        *lock(&self.scheme) = scheme;
    }

    /// Waits until this account may be tried here. A request that waited while the account was refused fails, too, so that
    /// a wrong password is not tried once per request.
    pub(super) async fn turn_of(
        &self,
        identity: &Identity,
        refusals_seen: u64,
    ) -> Result<Option<tokio::sync::MutexGuard<'_, ()>>, Failure> {
        if identity.is_proven() {
            return Ok(None);
        }
        let turn = self.turn.lock().await;
        if identity.is_proven() {
            return Ok(None);
        }
        if identity.refusals() != refusals_seen {
            return Err(Failure::Unauthorized(format!(
                "{} was refused a moment ago and is not tried again yet",
                identity.credential.account
            )));
        }
        Ok(Some(turn))
    }
}

/// Ends with the last idle connection, or with the CAS.
async fn sweep(cas: Weak<Cas>) {
    loop {
        let Some(next) = cas.upgrade().and_then(|cas| cas.close_overdue()) else {
            return;
        };
        tokio::time::sleep_until(next.into()).await;
    }
}

/// Nothing can panic while it is held.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
