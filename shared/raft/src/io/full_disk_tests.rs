//! Log and snapshots on a small file system of the kernel that fills up. Mounting it takes the superuser; a machine of
//! continuous integration must be able to, others skip these tests and say so.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use futures::executor::block_on;
use futures::future::BoxFuture;

use super::crash_tests::{Member, Told};
use super::recovery_tests::runtime;
use tandem_runtime::io::environment::files::{File, Files, Lock, RealFiles, Space};

const PAGE: u64 = 4096;
const PAGES: u64 = 64;
const FILES_MAX: u64 = 64;

#[test]
fn a_disk_without_room_for_one_more_page_costs_nothing_that_was_acknowledged() {
    fill_up("room", |disk, left| disk.leave_pages(left));
}

#[test]
fn a_disk_without_room_for_one_more_file_costs_nothing_that_was_acknowledged() {
    fill_up("files", |disk, left| disk.leave_files(left));
}

/// Leaves less and less of something, until everything fails, and then makes room.
fn fill_up(what: &str, leave: impl Fn(&SmallDisk, u64)) {
    let Some(disk) = SmallDisk::mount() else { return };
    let mut left = 0;
    loop {
        let mut told = Told::default();
        live(&disk, &mut told, async |member, told| member.write(told).await).unwrap();
        leave(&disk, left);
        let result = live(&disk, &mut told, async |member, told| {
            let result = member.work(told).await;
            if told.log_failed() {
                // What the disk holds is unknown: there is nothing more to be written, room or not.
                disk.make_room();
                member.write(told).await.unwrap_err();
            }
            result
        });
        if let Err(error) = &result {
            assert!(error.to_string().contains("No space left"), "{error}");
        }
        disk.make_room();
        open_three_times(&disk, &mut told, &format!("{left} {what} left"));
        disk.clear();
        if result.is_ok() {
            break;
        }
        left += 1;
    }
    assert!(left > 3, "all of the work needs no more than {left} {what}");
}

fn open_three_times(disk: &SmallDisk, told: &mut Told, situation: &str) {
    for life in 0..3 {
        let lived = live(disk, told, async |member, told| member.write(told).await);
        lived.unwrap_or_else(|error| panic!("start {life}, {situation}: {error}"));
    }
    live(disk, told, async |member, told| member.work(told).await).unwrap();
    live(disk, told, async |_, _| Ok(())).unwrap();
}

/// One life of the process: what it finds is right, then it does something. Returns when its threads have ended.
fn live(
    disk: &SmallDisk,
    told: &mut Told,
    act: impl AsyncFnOnce(&mut Member, &mut Told) -> io::Result<()>,
) -> io::Result<()> {
    let files = Arc::new(JoinedFiles::open(disk));
    let result = runtime().block_on(async {
        let mut member = Member::open_on(files.clone()).await?;
        member.check(told).await;
        act(&mut member, told).await
    });
    let threads = std::mem::take(&mut *files.threads.lock().unwrap());
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    result
}

/// Real files whose threads can be waited for.
struct JoinedFiles {
    files: RealFiles,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl JoinedFiles {
    fn open(disk: &SmallDisk) -> Self {
        Self {
            files: RealFiles::open(disk.data()).unwrap(),
            threads: Mutex::default(),
        }
    }
}

impl Files for JoinedFiles {
    fn list(&self) -> io::Result<Vec<String>> {
        self.files.list()
    }

    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        self.files.read(name)
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<Box<dyn File>> {
        self.files.create(name, bytes)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn File>> {
        self.files.open(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.files.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.files.remove(name)
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.files.sync_directory()
    }

    fn space(&self) -> io::Result<Space> {
        self.files.space()
    }

    fn spawn(&self, _name: &str, job: BoxFuture<'static, ()>) -> io::Result<()> {
        let thread = thread::spawn(|| block_on(job));
        self.threads.lock().unwrap().push(thread);
        Ok(())
    }

    fn lock(&self, name: &str) -> io::Result<Option<Lock>> {
        self.files.lock(name)
    }
}

/// A file system of few pages and few files in memory; unmounted when this is dropped.
struct SmallDisk {
    directory: tempfile::TempDir,
}

impl SmallDisk {
    fn mount() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let options = format!("size={},nr_inodes={FILES_MAX}", PAGES * PAGE);
        let output = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tandem-test"])
            .arg(directory.path())
            .output();
        let failure = match output {
            Ok(output) if output.status.success() => return Some(Self { directory }),
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        assert!(
            std::env::var_os("CI").is_none(),
            "a small disk cannot be mounted: {failure}"
        );
        eprintln!("SKIPPED: a small disk cannot be mounted: {failure}");
        None
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn filling(&self) -> PathBuf {
        self.directory.path().join("filling")
    }

    fn leave_pages(&self, pages: u64) {
        fs::create_dir(self.filling()).unwrap();
        let bytes = free_bytes(self.directory.path()) - pages * PAGE;
        let bytes = usize::try_from(bytes).unwrap();
        fs::write(self.filling().join("pages"), vec![1; bytes]).unwrap();
        assert_eq!(free_bytes(self.directory.path()), pages * PAGE);
    }

    fn leave_files(&self, files: u64) {
        fs::create_dir(self.filling()).unwrap();
        let name = |number: u64| self.filling().join(number.to_string());
        let count = (0..)
            .find(|number| fs::write(name(*number), []).is_err())
            .unwrap();
        for number in 0..files.min(count) {
            fs::remove_file(name(number)).unwrap();
        }
    }

    fn make_room(&self) {
        drop(fs::remove_dir_all(self.filling()));
    }

    fn clear(&self) {
        fs::remove_dir_all(self.data()).unwrap();
    }
}

fn free_bytes(directory: &Path) -> u64 {
    RealFiles::open(directory).unwrap().space().unwrap().free_bytes
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.directory.path()).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} is still mounted", self.directory.path().display());
        }
    }
}
