//! For tests: a disk that goes. It is a file system of our own (FUSE, linux/fuse.h) that holds one program.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use rustix::io::{FdFlags, fcntl_setfd};
use tempfile::TempDir;

const ROOT: u64 = 1;
const PROGRAM: u64 = 2;
const NAME: &str = "program";
const HEAD: usize = 40;
const LARGEST_WRITE: u32 = 64 * 1024;

/// What is asked of a file system.
const LOOKUP: u32 = 1;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const RELEASE: u32 = 18;
const FLUSH: u32 = 25;
const INIT: u32 = 26;

const NO_ENTRY: i32 = -2;
const NO_SYSTEM_CALL: i32 = -38;

/// It, mounted until dropped.
pub(super) struct Disk {
    folder: TempDir,
    is_gone: Arc<AtomicBool>,
}

/// What it answers.
struct Answers {
    connection: File,
    content: Vec<u8>,
    is_gone: Arc<AtomicBool>,
    asked: mpsc::Sender<&'static str>,
    unanswered: Vec<Vec<u8>>,
}

impl Disk {
    /// With a copy of this program. Says `asked` whenever it is asked for that and does not answer. `None` where that
    /// takes rights that we do not have.
    pub(super) fn with(program: &Path, asked: mpsc::Sender<&'static str>) -> Option<Self> {
        let connection = File::options().read(true).write(true).open("/dev/fuse").ok()?;
        // The program that mounts it must have it.
        fcntl_setfd(&connection, FdFlags::empty()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", connection.as_raw_fd());
        let mut mount = Command::new("mount");
        mount.args(["-i", "-t", "fuse", "-o", &options, "hauberk-test"]).arg(folder.path());
        let mounted = mount.stderr(Stdio::null()).status().is_ok_and(|status| status.success());
        fcntl_setfd(&connection, FdFlags::CLOEXEC).unwrap();
        if !mounted {
            return None;
        }
        let is_gone = Arc::new(AtomicBool::new(false));
        let content = std::fs::read(program).unwrap();
        let mut answers =
            Answers { connection, content, is_gone: Arc::clone(&is_gone), asked, unanswered: Vec::new() };
        thread::spawn(move || answers.give());
        Some(Self { folder, is_gone })
    }

    pub(super) fn program(&self) -> PathBuf {
        self.folder.path().join(NAME)
    }

    /// From now on nobody who asks for the program is answered.
    pub(super) fn goes(&self) {
        self.is_gone.store(true, Ordering::SeqCst);
    }

    /// Everybody is answered, whoever has asked before too.
    pub(super) fn comes_back(&self) {
        self.is_gone.store(false, Ordering::SeqCst);
        // It answers when it is asked for something else.
        std::fs::metadata(self.folder.path()).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.comes_back();
        let _unmounted = Command::new("umount").arg("-l").arg(self.folder.path()).status();
    }
}

impl Answers {
    /// Until it is not mounted any longer.
    fn give(&mut self) {
        let mut request = vec![0; LARGEST_WRITE as usize + 4096];
        while let Ok(length) = self.connection.read(&mut request) {
            let request = request[..length].to_vec();
            let waits = match (number(&request, 4), long(&request, 16)) {
                (LOOKUP, ROOT) => true,
                (GETATTR | OPEN, node) => node == PROGRAM,
                _ => false,
            };
            if waits && self.is_gone.load(Ordering::SeqCst) {
                self.unanswered.push(request);
                let _left = self.asked.send("asked");
                continue;
            }
            if !self.is_gone.load(Ordering::SeqCst) {
                for request in std::mem::take(&mut self.unanswered) {
                    self.answer(&request);
                }
            }
            self.answer(&request);
        }
    }

    fn answer(&mut self, request: &[u8]) {
        let (operation, node) = (number(request, 4), long(request, 16));
        let (error, answer) = match operation {
            INIT => {
                let [major, minor, read_ahead, flags] = [7_u32, 31, 0, 0];
                let mut answer = [major, minor, read_ahead, flags].map(u32::to_ne_bytes).concat();
                answer.extend([12_u16, 10].map(u16::to_ne_bytes).concat());
                answer.extend([LARGEST_WRITE, 1].map(u32::to_ne_bytes).concat());
                answer.resize(64, 0);
                (0, answer)
            }
            LOOKUP if request[HEAD..] == *format!("{NAME}\0").as_bytes() => {
                let entry = [PROGRAM, 0, 0, 0, 0].map(u64::to_ne_bytes).concat();
                (0, [entry, self.attributes(PROGRAM)].concat())
            }
            LOOKUP => (NO_ENTRY, Vec::new()),
            GETATTR => (0, [vec![0; 16], self.attributes(node)].concat()),
            OPEN => (0, vec![0; 16]),
            READ => {
                let from = usize::try_from(long(request, HEAD + 8)).unwrap().min(self.content.len());
                let to = (from + number(request, HEAD + 16) as usize).min(self.content.len());
                (0, self.content[from..to].to_vec())
            }
            RELEASE | FLUSH => (0, Vec::new()),
            _ => (NO_SYSTEM_CALL, Vec::new()),
        };
        let length = u32::try_from(16 + answer.len()).unwrap().to_ne_bytes();
        let whole = [&length[..], &error.to_ne_bytes()[..], &request[8..16], &answer].concat();
        // Whoever has asked may have gone.
        let _left = self.connection.write(&whole);
    }

    /// Of a file, good for no time at all.
    fn attributes(&self, node: u64) -> Vec<u8> {
        let (mode, length) =
            if node == ROOT { (0o40_755_u32, 0) } else { (0o100_755, self.content.len() as u64) };
        let mut attributes = [node, length, length.div_ceil(512), 0, 0, 0].map(u64::to_ne_bytes).concat();
        attributes.extend([0, 0, 0, mode, 1, 0, 0, 0, 4096, 0].map(u32::to_ne_bytes).concat());
        attributes
    }
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap())
}
