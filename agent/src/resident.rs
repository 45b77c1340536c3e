//! Gives back the part of this program that only starting needed.
//!
//! Starting goes through nearly all code once: arguments, settings, the first handshake, the policies' parser. The
//! kernel leaves what was touched, and its neighbourhood, mapped for good, so that an agent that waits for calls counts
//! as more than twice what it uses. What it does need again is mapped again from the page cache at once; a system that
//! is short of memory may have the rest.
#![allow(unsafe_code, reason = "madvise is unsafe to call, for it changes what memory holds")]

use std::fs;
use std::io;
use std::ops::Range;
use std::path::Path;

use rustix::mm::{Advice, madvise};

/// A mapping as `/proc/self/smaps` tells it.
#[derive(Debug, PartialEq, Eq)]
struct Mapping {
    addresses: Range<usize>,
    /// The file's; empty where there is none.
    path: String,
    /// Not writable, of a file, and no page differs from that file. One that the file system has not written yet does
    /// not differ, though it counts as dirty.
    is_clean: bool,
}

/// Unmaps every page of this program's own file that is a mere copy of it. Gives the bytes of the mappings concerned.
///
/// # Errors
/// The system does not tell what is mapped.
pub(crate) fn release_code() -> io::Result<usize> {
    let program = fs::read_link("/proc/self/exe")?;
    let mut released = 0;
    for Mapping { addresses, path, is_clean } in mappings(&fs::read_to_string("/proc/self/smaps")?) {
        if !is_clean || Path::new(&path) != program {
            continue;
        }
        let start = std::ptr::with_exposed_provenance_mut(addresses.start);
        // SAFETY: this is a part of the program as the kernel mapped it when it was started. Nobody unmaps that while
        // the program runs, unlike a library or a file that another thread may have mapped for a moment. It is private,
        // cannot be written and holds no page of its own, so that every page that is dropped is read again from the
        // file with the very same content.
        if unsafe { madvise(start, addresses.len(), Advice::LinuxDontNeed) }.is_ok() {
            released += addresses.len();
        }
    }
    Ok(released)
}

fn mappings(smaps: &str) -> Vec<Mapping> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in smaps.lines() {
        if let Some(mapping) = head(line) {
            mappings.push(mapping);
        } else if let (Some(last), Some((field, value))) = (mappings.last_mut(), line.split_once(':'))
            && matches!(field, "Anonymous" | "Swap" | "Locked")
        {
            last.is_clean &= value.trim() == "0 kB";
        }
    }
    mappings
}

/// `55a3ce7b5000-55a3cf236000 r-xp 003cc000 fe:00 10068185    /usr/bin/hauberk-agent`
fn head(line: &str) -> Option<Mapping> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    let addresses = address(start)?..address(end)?;
    let is_read_only = matches!(words.next()?, "r-xp" | "r--p");
    // Offset, device, inode; what has no file has no path, or one in brackets.
    let path = words.nth(3).filter(|path| path.starts_with('/')).unwrap_or_default().to_owned();
    Some(Mapping { addresses, is_clean: is_read_only && !path.is_empty(), path })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
1000-3000 r-xp 00000000 fe:00 12                       /usr/bin/hauberk-agent
Rss:                   8 kB
Private_Dirty:         8 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
3000-4000 r--p 00002000 fe:00 12                       /usr/bin/hauberk-agent
Anonymous:             4 kB
4000-5000 rw-p 00003000 fe:00 12                       /usr/bin/hauberk-agent
Anonymous:             0 kB
5000-6000 r-xp 00000000 00:00 0                        [vdso]
Anonymous:             0 kB
6000-7000 r--p 00000000 00:00 0
Anonymous:             0 kB
7000-8000 r--s 00000000 fe:00 13                       /var/cache/shared
Anonymous:             0 kB
";

    #[test]
    fn only_copies_of_files_are_clean() {
        let clean: Vec<_> = mappings(SMAPS).iter().map(|mapping| mapping.is_clean).collect();
        assert_eq!(clean, [true, false, false, false, false, false]);
        let first = mappings(SMAPS).into_iter().next().map(|mapping| mapping.addresses);
        assert_eq!(first, Some(0x1000..0x3000));
    }

    #[test]
    fn the_program_goes_on_after_its_code_is_released() {
        let released = release_code().expect("/proc is there");
        assert!(released > 0, "this very test is code of a file");
        assert_eq!(mappings(SMAPS).len(), 6);
    }
}
