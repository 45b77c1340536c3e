//! The process at the other end of a Unix socket, held on to so that another one in its place is noticed.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use aws_lc_rs::digest::{Context, SHA256};
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, makedev, openat, readlinkat, statx};
use thiserror::Error;

use super::cgroup::Cgroups;
use super::peer::{PeerHandle, ended};

/// The largest executable whose digest is taken, in bytes.
const LARGEST_EXECUTABLE: u64 = 512 * 1024 * 1024;

/// What a file of /proc holds at the most; that of groups is the longest.
const LARGEST_FILE: u64 = 1024 * 1024;

/// A process, by its directory in /proc. Once it has ended nothing can be read there any longer, whoever has its
/// number.
#[derive(Debug)]
pub(super) struct Process {
    directory: File,
    started: u64,
    /// What it executed when it was first looked at; `None` where we may not see that.
    executable: Option<FileId>,
    /// Its path, once that was found to be good. See [`Process::path`].
    path: OnceLock<Found>,
}

/// The path of an executable, and the file, held on to: as long as it is, its number is no other file's.
#[derive(Debug)]
struct Found {
    path: PathBuf,
    _file: File,
}

/// A file, wherever it is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
}

/// The digest of a file, and what the file was like before it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hashed {
    state: FileState,
    pub(super) digest: [u8; 32],
}

/// Changes with whatever is written to the file. Nobody but the system's clock sets the last of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileState {
    file: FileId,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// A process that is another program by now: who it was when it connected says nothing about it any longer.
#[derive(Debug, Error)]
#[error("it has executed another program since it connected: it gets nothing until it connects again")]
pub(super) struct Executed;

/// What is known of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ProcessFacts {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) supplementary_gids: Vec<u32>,
    /// See [`Process::path`].
    pub(super) path: Option<PathBuf>,
}

impl Process {
    /// Holds on to the process of this number.
    pub(super) fn hold(pid: i32) -> io::Result<Self> {
        let directory = File::open(format!("/proc/{pid}"))?;
        let mut process = Self { directory, started: 0, executable: None, path: OnceLock::new() };
        process.started = process.start_time()?;
        process.executable = process.executable().ok();
        Ok(process)
    }

    /// Holds on to the process that has connected; `None` where it is not to be seen from here: it has no number in our
    /// pid namespace, or lives and is hidden in /proc. Where the kernel does not tell for certain which one has
    /// connected, it is whichever has the number now.
    ///
    /// # Errors
    /// It has ended, or that cannot be told: whoever has its socket now may be anybody.
    pub(super) fn hold_peer(stream: impl AsFd, pid: Option<i32>) -> io::Result<Option<Self>> {
        let peer = PeerHandle::of(stream)?;
        let process = pid.map(Self::hold).transpose();
        // While it lives its number is nobody else's: what was opened was its own.
        match (peer.map(|peer| peer.has_ended()).transpose()?, process) {
            (Some(true), _) => Err(ended()),
            (Some(false), Err(error)) if is_hidden(&error) => Ok(None),
            (_, process) => process,
        }
    }

    /// The device on which its executable lies, where we may see that.
    pub(super) fn disk(&self) -> Option<u64> {
        self.executable.map(|executable| executable.device)
    }

    /// What is true of it now; an error if it has ended. Its path may lead to a disk that has gone, which is waited
    /// for.
    pub(super) fn facts(&self) -> io::Result<ProcessFacts> {
        self.check_same()?;
        let status = self.read("status")?;
        let facts = read_status(&status).ok_or_else(|| malformed("status"))?;
        let facts = ProcessFacts { path: self.path().ok(), ..facts };
        self.check_same()?;
        Ok(facts)
    }

    /// The SHA-256 of its executable, or what is known where that has not been written since; an error where it is too
    /// large, or we may not read it. It may lie on a disk that has gone, which is waited for.
    pub(super) fn digest(&self, known: Option<Hashed>) -> io::Result<Hashed> {
        let mut file = self.open("exe")?;
        let metadata = file.metadata()?;
        let state = FileState::of(&metadata);
        if Some(state.file) != self.executable {
            return Err(io::Error::other(Executed));
        }
        if let Some(known) = known.filter(|known| known.state == state) {
            self.check_same()?;
            return Ok(known);
        }
        let length = metadata.len();
        if length > LARGEST_EXECUTABLE {
            let problem = format!("it has {length} bytes; at most {LARGEST_EXECUTABLE} are read");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, problem));
        }
        let mut context = Context::new(&SHA256);
        let mut buffer = vec![0; 64 * 1024];
        let mut left = LARGEST_EXECUTABLE;
        loop {
            let read = file.read(&mut buffer)?;
            let bytes = buffer.get(..read).unwrap_or_default();
            if bytes.is_empty() {
                break;
            }
            left = left.checked_sub(read as u64).ok_or(io::ErrorKind::FileTooLarge)?;
            context.update(bytes);
        }
        self.check_same()?;
        let digest = <[u8; 32]>::try_from(context.finish().as_ref()).map_err(|_| malformed("exe"))?;
        Ok(Hashed { state, digest })
    }

    /// Where the kernel has put it.
    pub(super) fn cgroups(&self) -> io::Result<Cgroups> {
        let text = self.read("cgroup")?;
        self.check_same()?;
        Cgroups::parse(&text).ok_or_else(|| malformed("cgroup"))
    }

    /// What is mounted for it.
    pub(super) fn mountinfo(&self) -> io::Result<String> {
        let text = self.read("mountinfo")?;
        self.check_same()?;
        Ok(text)
    }

    /// Its executable, where that is the same file for us under the same path: in a mount namespace of its own a
    /// process may give any file any name. That it has such a namespace is not held against it: services of systemd
    /// often do.
    ///
    /// Once it was, it is for as long as the process executes that very file: an update that puts another file in its
    /// place makes no other program of one that runs.
    ///
    /// # Errors
    /// It is not, or we may not see it.
    pub(super) fn path(&self) -> io::Result<PathBuf> {
        if let Some(Found { path, .. }) = self.path.get() {
            self.check_same()?;
            return Ok(path.clone());
        }
        let link = readlinkat(&self.directory, "exe", Vec::new())?;
        let executable = self.executable()?;
        if self.executable != Some(executable) {
            return Err(io::Error::other(Executed));
        }
        let path = Path::new(std::ffi::OsStr::from_bytes(link.to_bytes()));
        let ours = std::fs::metadata(path).ok().map(|metadata| FileId::of(&metadata));
        if ours != Some(executable) {
            let problem = format!(
                "its executable is {} for itself, where we find another file or none",
                path.display()
            );
            return Err(io::Error::other(problem));
        }
        let file = File::from(openat(&self.directory, "exe", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?);
        if FileId::of(&file.metadata()?) != executable {
            return Err(io::Error::other(Executed));
        }
        Ok(self.path.get_or_init(|| Found { path: path.to_owned(), _file: file }).path.clone())
    }

    /// Which file it executes, as the kernel has it in memory: neither number changes, and a disk that has gone is not
    /// waited for.
    fn executable(&self) -> io::Result<FileId> {
        let known = statx(&self.directory, "exe", AtFlags::STATX_DONT_SYNC, StatxFlags::INO)?;
        Ok(FileId { device: makedev(known.stx_dev_major, known.stx_dev_minor), inode: known.stx_ino })
    }

    /// Fails if it has ended, or is another program than it was.
    pub(super) fn check_same(&self) -> io::Result<()> {
        if self.start_time()? != self.started {
            return Err(io::Error::other("another process has its number"));
        }
        match self.executable {
            Some(executable) if self.executable()? != executable => Err(io::Error::other(Executed)),
            _ => Ok(()),
        }
    }

    fn start_time(&self) -> io::Result<u64> {
        read_start_time(&self.read("stat")?).ok_or_else(|| malformed("stat"))
    }

    fn open(&self, name: &str) -> io::Result<File> {
        Ok(openat(&self.directory, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?.into())
    }

    fn read(&self, name: &str) -> io::Result<String> {
        let mut bytes = Vec::new();
        self.open(name)?.take(LARGEST_FILE).read_to_end(&mut bytes)?;
        // Names of programs may hold anything; what is looked for is ASCII.
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

impl FileId {
    fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

impl FileState {
    fn of(metadata: &Metadata) -> Self {
        Self {
            file: FileId::of(metadata),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// The 22nd field of `stat`, counted after the name, which may hold spaces and brackets itself (proc(5)).
pub(super) fn read_start_time(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Effective user and group, and supplementary groups (proc(5)).
fn read_status(status: &str) -> Option<ProcessFacts> {
    let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    let effective = |name| line(name)?.split_ascii_whitespace().nth(1)?.parse().ok();
    let groups = line("Groups:")?.split_ascii_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    Some(ProcessFacts {
        uid: effective("Uid:")?,
        gid: effective("Gid:")?,
        supplementary_gids: groups,
        path: None,
    })
}

fn is_hidden(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied)
}

fn malformed(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("/proc/PID/{name} is not what it should be"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    use tokio_util::sync::CancellationToken;

    use super::super::attest::Caller;
    use super::super::gone::Disk;
    use super::super::looks::Looks;
    use super::*;
    use crate::skipped::{Excuse, excuse, skip};

    fn pid(number: u32) -> i32 {
        i32::try_from(number).unwrap()
    }

    #[test]
    fn tells_what_is_true_of_ourselves() {
        let own = Process::hold(pid(std::process::id())).unwrap();
        let facts = own.facts().unwrap();
        assert_eq!(facts.uid, rustix::process::geteuid().as_raw());
        assert_eq!(facts.gid, rustix::process::getegid().as_raw());
        assert_eq!(facts.path, std::env::current_exe().ok());
        let file = std::fs::read("/proc/self/exe").unwrap();
        let hashed = own.digest(None).unwrap();
        assert_eq!(hashed.digest, aws_lc_rs::digest::digest(&SHA256, &file).as_ref());
        // It is not read again; a file that was written since would be.
        let known = Hashed { digest: [7; 32], ..hashed };
        assert_eq!(own.digest(Some(known)).unwrap(), known);
        let mut other = known;
        other.state.changed.0 -= 1;
        assert_eq!(own.digest(Some(other)).unwrap(), hashed);
    }

    #[test]
    fn a_process_that_has_ended_proves_nothing() {
        let mut child =
            Command::new("cat").arg0("a) b (c").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let process = Process::hold(pid(child.id())).unwrap();
        process.facts().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(process.facts().is_err());
        assert!(process.digest(None).is_err());
    }

    #[test]
    fn another_start_is_another_process() {
        let mut own = Process::hold(pid(std::process::id())).unwrap();
        own.started += 1;
        assert!(own.facts().unwrap_err().to_string().contains("another process"));
    }

    #[test]
    fn whoever_has_executed_another_program_since_is_nobody() {
        let mut shell = Command::new("sh");
        let script = "read line; exec cat";
        let mut child =
            shell.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let process = Process::hold(pid(child.id())).unwrap();
        let path = process.facts().unwrap().path;
        process.digest(None).unwrap();
        child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
        let link = format!("/proc/{}/exe", child.id());
        while std::fs::read_link(&link).ok() == path {
            std::thread::yield_now();
        }
        let digest = process.digest(None);
        for refused in [process.facts().map(drop), digest.map(drop), process.cgroups().map(drop)] {
            assert!(refused.unwrap_err().get_ref().unwrap().is::<Executed>());
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn an_update_in_place_leaves_a_program_its_path_until_it_executes_another() {
        let folder = tempfile::tempdir().unwrap();
        let [path, update] = ["worker", "worker.new"].map(|name| folder.path().join(name));
        std::fs::copy("/bin/sh", &path).unwrap();
        std::fs::copy("/bin/cat", &update).unwrap();
        let mut command = Command::new(&path);
        command.arg("-c").arg("read line; exec \"$0\"").arg(&path);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let process = Process::hold(pid(child.id())).unwrap();
        let facts = process.facts().unwrap();
        assert_eq!(facts.path.as_ref(), Some(&path));
        // As package managers do.
        std::fs::rename(&update, &path).unwrap();
        assert_eq!(process.facts().unwrap(), facts);
        // Whoever connects only now is not known to have been there before.
        let later = Process::hold(pid(child.id())).unwrap();
        assert!(later.path().unwrap_err().to_string().contains("worker (deleted)"));
        // The new program is another, though it has the path.
        child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
        while std::fs::read_link(format!("/proc/{}/exe", child.id())).unwrap() != path {
            std::thread::yield_now();
        }
        for refused in [process.path().map(drop), process.facts().map(drop), later.path().map(drop)] {
            assert!(refused.unwrap_err().get_ref().unwrap().is::<Executed>());
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_path_is_not_believed_where_another_file_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("worker");
        std::fs::copy("/bin/cat", &path).unwrap();
        // What we find there is `cat`; what it executes there is a copy of `tail` in a mount namespace of its own.
        let script = "mount --bind /usr/bin/tail \"$1\" && exec \"$1\" -f /dev/null";
        let mut unshare = Command::new("unshare");
        unshare.args(["--map-root-user", "--mount", "sh", "-c", script, "sh"]).arg(&path);
        let Ok(mut child) = unshare.stdout(Stdio::null()).stderr(Stdio::null()).spawn() else {
            return skip("unshare is not installed");
        };
        let link = format!("/proc/{}/exe", child.id());
        while std::fs::read_link(&link).is_ok_and(|executed| executed != path) {
            if child.try_wait().unwrap().is_some() {
                return excuse(Excuse::Kernel, "a mount namespace of its own");
            }
            std::thread::yield_now();
        }
        let process = Process::hold(pid(child.id())).unwrap();
        assert_eq!(process.facts().unwrap().path, None);
        let problem = process.path().unwrap_err().to_string();
        assert!(problem.contains("another file") && problem.contains("worker"), "{problem}");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn who_somebody_is_is_known_without_asking_a_disk() {
        let (tell, told) = std::sync::mpsc::channel();
        let Some(disk) = Disk::with(Path::new("/bin/cat"), tell.clone()) else {
            return excuse(Excuse::Kernel, "a file system of our own");
        };
        let mut child =
            Command::new(disk.program()).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        disk.goes();
        let number = pid(child.id());
        let looking = std::thread::spawn(move || {
            let process = Process::hold(number).unwrap();
            process.cgroups().unwrap();
            process.check_same().unwrap();
            tell.send("known").unwrap();
            process.facts().unwrap().path
        });
        assert_eq!(told.recv().unwrap(), "known");
        // Its path is not to be had so.
        assert_eq!(told.recv().unwrap(), "asked");
        disk.comes_back();
        assert_eq!(looking.join().unwrap(), Some(disk.program()));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    const SOCKET: &str = "HAUBERK_TEST_SOCKET";

    #[test]
    #[ignore = "it is what a process does that another test starts"]
    fn connects_and_is_gone() {
        let Some(path) = std::env::var_os(SOCKET) else { return };
        UnixStream::connect(path).unwrap();
    }

    /// Gives the number of the process that was.
    fn connect_and_be_gone(socket: &Path) -> u32 {
        let mut itself = Command::new(std::env::current_exe().unwrap());
        itself.args(["--exact", "workloads::process::tests::connects_and_is_gone", "--ignored"]);
        let mut child = itself.env(SOCKET, socket).stdout(Stdio::null()).spawn().unwrap();
        assert!(child.wait().unwrap().success());
        child.id()
    }

    #[tokio::test]
    async fn whoever_has_ended_since_it_connected_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        connect_and_be_gone(&socket);
        let (stream, _) = listener.accept().await.unwrap();
        let problem = Caller::of(&stream, &Looks::new(CancellationToken::new())).unwrap_err();
        assert!(is_hidden(&problem) || problem.to_string().contains("has ended"), "{problem}");
        // Of another pid namespace there is no number.
        assert!(
            Process::hold_peer(&stream, None).is_err()
                || PeerHandle::of(&stream).is_ok_and(|peer| peer.is_none())
        );
    }

    #[test]
    fn whoever_has_the_number_of_the_process_that_connected_is_not_that() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        // Others are started meanwhile, and take the number.
        for _ in 0..100 {
            let gone = connect_and_be_gone(&socket);
            let (stream, _) = listener.accept().unwrap();
            let before = (gone - 1).to_string();
            if std::fs::write("/proc/sys/kernel/ns_last_pid", before).is_err() {
                return excuse(Excuse::Kernel, "choosing the number of the next process");
            }
            let mut other = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
            let held = (other.id() == gone).then(|| {
                let number = pid(gone);
                (Process::hold(number), Process::hold_peer(&stream, Some(number)), PeerHandle::of(&stream))
            });
            other.kill().unwrap();
            other.wait().unwrap();
            match held {
                None => {}
                Some((_, _, Ok(None))) => {
                    return excuse(Excuse::Kernel, "a handle of the process at the other end");
                }
                Some((anybody, peer, _)) => {
                    assert!(anybody.is_ok() && peer.is_err(), "{peer:?}");
                    return;
                }
            }
        }
        excuse(Excuse::Kernel, "the number of the process was always somebody else's");
    }

    #[test]
    fn names_of_programs_do_not_move_fields() {
        let fields: Vec<String> = (3..=52).map(|field| (field * 10).to_string()).collect();
        let stat = format!("7 (a) S 1 (b) {}", fields.join(" "));
        assert_eq!(read_start_time(&stat), Some(220));
        assert_eq!(read_start_time("7 (x) S 1"), None);
        assert_eq!(read_status("Uid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t9 10 \n").unwrap().gid, 6);
        assert_eq!(read_status("Uid:\t1\t2\nGid:\t5\t6\n"), None);
    }
}
