//! The stamp of a data directory: to whom it belongs, and how often it was started.
//!
//! Owns the files `member` (the stamp) and `lock`. What always holds: one process at a time uses a directory; a start is
//! counted on disk before any other member hears of it; a directory that was emptied draws a new identity.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use tandem_cluster::membership::{Introduction, Start};
use tandem_cluster::{ClusterIdentity, DirectoryId, Format, MemberRole, NodeId, RaftId};

use super::config::ClusterConfig;
use super::small_file;
use tandem_runtime::io::environment::files::{Files, Lock, Space};

/// This member's data directory.
pub(super) struct Directory {
    files: Arc<dyn Files>,
    stamp: RwLock<Stamp>,
    start: Start,
    newest_format: Format,
    /// There were files of a log or a snapshot when it was opened.
    has_log: bool,
    /// Draws the identity of a cluster that this member forms.
    drawn_cluster: ClusterIdentity,
    lock: Mutex<Option<Lock>>,
}

/// What stands in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    cluster_name: String,
    member: u64,
    role: MemberRole,
    generation: u32,
    directory: DirectoryId,
    /// The cluster that the directory has become part of.
    cluster: Option<ClusterIdentity>,
    /// How often a process was started on it.
    starts: u64,
    /// The newest format that the member's program read, and since when (Unix milliseconds) it has been that one.
    newest_format: Format,
    format_since_ms: u64,
}

/// Why a data directory cannot be used. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    #[error("the data directory {} is in use by another process", .0.display())]
    InUse(std::path::PathBuf),
    #[error(
        "the data directory belongs to {found_role} {found} of cluster {found_cluster:?}, but this is {own_role} {own} of \
         cluster {own_cluster:?}: give every member its own directory"
    )]
    AnotherMember {
        found_cluster: String,
        found_role: &'static str,
        found: NodeId,
        own_cluster: String,
        own_role: &'static str,
        own: NodeId,
    },
    #[error(
        "the log of this data directory is gone, but the directory was part of a cluster: restore nothing; empty the \
         directory, start the member, and run `tandem-node cluster replace {0}`"
    )]
    LogGone(NodeId),
    #[error("the data directory cannot be read or written")]
    Io(#[from] io::Error),
}

impl Directory {
    /// Locks the directory and reads its stamp, or draws one.
    pub(super) fn open(files: Arc<dyn Files>, config: &ClusterConfig) -> Result<Self, DirectoryError> {
        let lock = lock(&*files, &config.data_directory)?;
        let now_ms = (config.wall_clock_ms)();
        let has_log = files.list()?.iter().any(|name| is_of_raft(name));
        let mut random = StdRng::seed_from_u64(config.seed);
        let mut stamp = match small_file::load::<Stamp>(&*files, STAMP)? {
            Some(stamp) => checked(stamp, config, has_log)?,
            // A directory with a log and without a stamp is one of release 0.1.
            None => {
                let generation = if has_log {
                    0
                } else {
                    random.random_range(1..=u32::MAX)
                };
                drawn(config, generation, DirectoryId(random.random()), now_ms)
            }
        };
        if stamp.newest_format != config.newest_format {
            stamp.newest_format = config.newest_format;
            stamp.format_since_ms = now_ms;
        }
        // Not counted yet.
        let start = Start {
            count: stamp.starts + 1,
            nonce: random.random(),
        };
        Ok(Self {
            files,
            stamp: RwLock::new(stamp),
            start,
            newest_format: config.newest_format,
            has_log,
            drawn_cluster: ClusterIdentity(random.random()),
            lock: Mutex::new(Some(lock)),
        })
    }

    /// Lets another member have the directory; nothing of this one may be written from now on.
    pub(super) fn release(&self) {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Counts this start, durably: before any other member hears of it.
    pub(super) async fn count_start(&self) -> Result<(), DirectoryError> {
        let counted = {
            let stamp = self.stamp.read().unwrap_or_else(PoisonError::into_inner);
            Stamp {
                starts: self.start.count,
                ..stamp.clone()
            }
        };
        self.write(counted).await?;
        Ok(())
    }

    /// Whether there was anything of Raft in it when it was opened.
    pub(super) fn has_log(&self) -> bool {
        self.has_log
    }

    /// What this member says of itself.
    pub(super) fn introduction(&self) -> Introduction {
        let stamp = self.stamp.read().unwrap_or_else(PoisonError::into_inner);
        Introduction {
            id: RaftId::new(stamp.generation, NodeId(stamp.member)),
            role: stamp.role,
            directory: stamp.directory,
            cluster: stamp.cluster,
            start: self.start,
            newest_format: self.newest_format,
        }
    }

    pub(super) fn raft_id(&self) -> RaftId {
        self.introduction().id
    }

    /// Since when (Unix milliseconds) this member has run a release with its newest format.
    pub(super) fn format_since_ms(&self) -> u64 {
        let stamp = self.stamp.read().unwrap_or_else(PoisonError::into_inner);
        stamp.format_since_ms
    }

    /// The identity of a cluster that this member would form.
    pub(super) fn drawn_cluster(&self) -> ClusterIdentity {
        self.introduction().cluster.unwrap_or(self.drawn_cluster)
    }

    /// The room on its disk.
    pub(super) fn space(&self) -> io::Result<Space> {
        self.files.space()
    }

    /// Makes the directory part of a cluster, durably. One that is part of a cluster already stays in it.
    pub(super) async fn join(&self, cluster: ClusterIdentity) -> io::Result<()> {
        let joined = {
            let stamp = self.stamp.read().unwrap_or_else(PoisonError::into_inner);
            if stamp.cluster.is_some() {
                return Ok(());
            }
            Stamp {
                cluster: Some(cluster),
                ..stamp.clone()
            }
        };
        self.write(joined).await?;
        tracing::info!(%cluster, "the data directory has become part of the cluster");
        Ok(())
    }

    async fn write(&self, stamp: Stamp) -> io::Result<()> {
        small_file::replace(self.files.clone(), STAMP, &stamp).await?;
        *self.stamp.write().unwrap_or_else(PoisonError::into_inner) = stamp;
        Ok(())
    }
}

fn lock(files: &dyn Files, directory: &Path) -> Result<Lock, DirectoryError> {
    match files.lock(LOCK) {
        Ok(Some(lock)) => Ok(lock),
        Ok(None) => Err(DirectoryError::InUse(directory.to_path_buf())),
        Err(error) => Err(error.into()),
    }
}

fn drawn(config: &ClusterConfig, generation: u32, directory: DirectoryId, now_ms: u64) -> Stamp {
    Stamp {
        cluster_name: config.name.clone(),
        member: config.id.0,
        role: config.role,
        generation,
        directory,
        cluster: None,
        starts: 0,
        newest_format: config.newest_format,
        format_since_ms: now_ms,
    }
}

fn checked(stamp: Stamp, config: &ClusterConfig, has_log: bool) -> Result<Stamp, DirectoryError> {
    let own = (config.name.as_str(), config.id.0, config.role);
    if (stamp.cluster_name.as_str(), stamp.member, stamp.role) != own {
        return Err(DirectoryError::AnotherMember {
            found_cluster: stamp.cluster_name,
            found_role: stamp.role.label(),
            found: NodeId(stamp.member),
            own_cluster: config.name.clone(),
            own_role: config.role.label(),
            own: config.id,
        });
    }
    if stamp.cluster.is_some() && !has_log {
        return Err(DirectoryError::LogGone(config.id));
    }
    Ok(stamp)
}

/// A file of the log, or a snapshot.
fn is_of_raft(name: &str) -> bool {
    name.starts_with("log-") || name == "snapshot"
}

const STAMP: &str = "member";
const LOCK: &str = "lock";

/// For the golden file.
#[cfg(test)]
pub(super) fn sample_stamp() -> impl Serialize {
    Stamp {
        cluster_name: "main".to_owned(),
        member: 2,
        role: MemberRole::Node,
        generation: 0x7f3a_91c2,
        directory: DirectoryId(0x0123_4567_89ab_cdef_0011_2233_4455_6677),
        cluster: Some(ClusterIdentity(7)),
        starts: 4,
        newest_format: Format::RELEASE_0_2,
        format_since_ms: 1_700_000_000_000,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::config::Member;
    use super::*;
    use tandem_cluster::StateLimits;
    use tandem_runtime::io::environment::simulated::SimulatedFiles;

    fn config(id: u64, seed: u64) -> ClusterConfig {
        let member = Member {
            id: NodeId(id),
            role: MemberRole::Node,
            address: std::net::SocketAddr::from(([127, 0, 0, 1], 7000)).into(),
        };
        let mut config = ClusterConfig::new("main", NodeId(id), vec![member], "data", StateLimits::default());
        config.seed = seed;
        config
    }

    fn disk() -> SimulatedFiles {
        SimulatedFiles::new(1, Duration::ZERO)
    }

    async fn open(files: &SimulatedFiles, config: &ClusterConfig) -> Result<Directory, DirectoryError> {
        let directory = Directory::open(Arc::new(files.clone()), config)?;
        directory.count_start().await?;
        Ok(directory)
    }

    #[tokio::test]
    async fn each_start_is_counted_on_disk_before_anybody_hears_of_it() {
        let files = disk();
        for count in 1..4 {
            let directory = open(&files, &config(1, count)).await.unwrap();
            assert_eq!(directory.introduction().start.count, count);
            files.crash();
        }
    }

    #[tokio::test]
    async fn an_emptied_directory_is_another_member_to_raft() {
        let first = open(&disk(), &config(1, 1)).await.unwrap().introduction();
        let second = open(&disk(), &config(1, 2)).await.unwrap().introduction();
        assert_eq!(first.id.member(), second.id.member());
        assert_ne!(first.id, second.id);
        assert_ne!(first.directory, second.directory);
    }

    #[tokio::test]
    async fn a_directory_of_release_0_1_keeps_its_number_as_its_id() {
        let files = disk();
        files.put("log-000000000001", vec![0; 64]);
        let directory = open(&files, &config(1, 1)).await.unwrap();
        assert_eq!(directory.raft_id(), RaftId::new(0, NodeId(1)));
        drop(directory);
        let again = open(&files, &config(1, 2)).await.unwrap();
        assert_eq!(again.raft_id(), RaftId::new(0, NodeId(1)));
    }

    #[tokio::test]
    async fn another_members_directory_is_refused_by_name() {
        let files = disk();
        drop(open(&files, &config(1, 1)).await.unwrap());
        let error = open(&files, &config(2, 2)).await.err().unwrap();
        let text = error.to_string();
        assert!(
            text.contains("belongs to node n1") && text.contains("this is node n2"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn a_directory_is_used_by_one_process_at_a_time() {
        let files = disk();
        let first = open(&files, &config(1, 1)).await.unwrap();
        let error = open(&files, &config(1, 2)).await.err().unwrap();
        assert!(
            error.to_string().contains("is in use by another process"),
            "{error}"
        );
        drop(first);
        open(&files, &config(1, 3)).await.unwrap();
    }

    #[tokio::test]
    async fn a_directory_whose_log_is_gone_is_refused() {
        let files = disk();
        let directory = open(&files, &config(1, 1)).await.unwrap();
        directory.join(ClusterIdentity(7)).await.unwrap();
        directory.join(ClusterIdentity(8)).await.unwrap();
        assert_eq!(directory.introduction().cluster, Some(ClusterIdentity(7)));
        drop(directory);
        let error = open(&files, &config(1, 2)).await.err().unwrap();
        assert!(error.to_string().contains("cluster replace n1"), "{error}");
    }
}
