//! The process at the other end of a Unix socket, held on to so that another one in its place is noticed.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};
use rustix::fs::{AtFlags, Mode, OFlags, openat, readlinkat, statat};

use super::cgroup::Cgroups;

/// The largest executable whose digest is taken, in bytes.
const LARGEST_EXECUTABLE: u64 = 512 * 1024 * 1024;

/// What a file of /proc holds at the most; that of groups is the longest.
const LARGEST_FILE: u64 = 1024 * 1024;

/// A process, by its directory in /proc. Once it has ended nothing can be read there any longer, whoever has its number.
#[derive(Debug)]
pub(super) struct Process {
    directory: File,
    started: u64,
}

/// What is known of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ProcessFacts {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) supplementary_gids: Vec<u32>,
    /// Its executable, where that is the same file for us under the same path: in a mount namespace of its own a process
    /// may give any file any name.
    pub(super) path: Option<PathBuf>,
}

impl Process {
    /// Holds on to the process of this number.
    pub(super) fn hold(pid: i32) -> io::Result<Self> {
        let directory = File::open(format!("/proc/{pid}"))?;
        let mut process = Self { directory, started: 0 };
        process.started = process.start_time()?;
        Ok(process)
    }

    /// What is true of it now; an error if it has ended.
    pub(super) fn facts(&self) -> io::Result<ProcessFacts> {
        self.check_same()?;
        let status = self.read("status")?;
        let facts = read_status(&status).ok_or_else(|| malformed("status"))?;
        let facts = ProcessFacts { path: self.executable().ok().flatten(), ..facts };
        self.check_same()?;
        Ok(facts)
    }

    /// The SHA-256 of its executable; an error where that is too large, or we may not read it.
    pub(super) fn digest(&self) -> io::Result<[u8; 32]> {
        let mut file = self.open("exe")?;
        let length = file.metadata()?.len();
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
        <[u8; 32]>::try_from(context.finish().as_ref()).map_err(|_| malformed("exe"))
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

    fn executable(&self) -> io::Result<Option<PathBuf>> {
        let link = readlinkat(&self.directory, "exe", Vec::new())?;
        let path = Path::new(std::ffi::OsStr::from_bytes(link.to_bytes()));
        let own = statat(&self.directory, "exe", AtFlags::empty())?;
        let ours = rustix::fs::stat(path)?;
        let is_same = (own.st_dev, own.st_ino) == (ours.st_dev, ours.st_ino);
        Ok(is_same.then(|| path.to_owned()))
    }

    /// Fails if it has ended.
    pub(super) fn check_same(&self) -> io::Result<()> {
        let is_same = self.start_time()? == self.started;
        if is_same { Ok(()) } else { Err(io::Error::other("another process has its number")) }
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

/// The 22nd field of `stat`, counted after the name, which may hold spaces and brackets itself (proc(5)).
fn read_start_time(stat: &str) -> Option<u64> {
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

fn malformed(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("/proc/PID/{name} is not what it should be"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    use super::*;

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
        assert_eq!(own.digest().unwrap(), aws_lc_rs::digest::digest(&SHA256, &file).as_ref());
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
        assert!(process.digest().is_err());
    }

    #[test]
    fn another_start_is_another_process() {
        let mut own = Process::hold(pid(std::process::id())).unwrap();
        own.started += 1;
        assert!(own.facts().unwrap_err().to_string().contains("another process"));
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
