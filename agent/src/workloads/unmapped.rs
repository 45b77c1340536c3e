//! The user and the group in whose place an agent in a user namespace sees all those who have no number there.
//!
//! The kernel tells such an agent one number for all of them (user_namespaces(7), "Unmapped user and group IDs"). It
//! says nothing about who somebody is, so that no selector holds by it; nor by the same number of somebody who has it
//! in that namespace.

use std::collections::BTreeSet;
use std::{fs, io};

use hauberk_identity::Selector;

/// How many numbers there are for users: the last one of 32 bits is nobody's.
const ALL: u64 = u32::MAX as u64;

/// What the kernel says where it was not told otherwise.
const USUAL: u32 = 65_534;

/// The numbers that say nothing.
#[derive(Debug, Default, PartialEq, Eq)]
struct Unmapped {
    user: Option<u32>,
    group: Option<u32>,
}

/// Leaves of selectors those that say something.
pub(super) fn without_unmapped(selectors: BTreeSet<Selector>) -> BTreeSet<Selector> {
    Unmapped::of_ourselves().without(selectors)
}

impl Unmapped {
    fn of_ourselves() -> Self {
        let read = |map: &str, overflow: &str| {
            in_place_of_others(fs::read_to_string(format!("/proc/self/{map}")), || {
                fs::read_to_string(format!("/proc/sys/kernel/{overflow}")).ok()
            })
        };
        Self { user: read("uid_map", "overflowuid"), group: read("gid_map", "overflowgid") }
    }

    fn without(&self, mut selectors: BTreeSet<Selector>) -> BTreeSet<Selector> {
        selectors.retain(|selector| match selector {
            Selector::UnixUid(user) => self.user != Some(*user),
            Selector::UnixGid(group) | Selector::UnixSupplementaryGid(group) => self.group != Some(*group),
            _ => true,
        });
        selectors
    }
}

/// The number that stands for all who have none here; `None` where everybody has one. What cannot be read is not
/// believed to be whole.
fn in_place_of_others(map: io::Result<String>, overflow: impl FnOnce() -> Option<String>) -> Option<u32> {
    match map {
        Ok(map) if is_whole(&map) => None,
        // A kernel without user namespaces.
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        _ => Some(overflow().and_then(|text| text.trim().parse().ok()).unwrap_or(USUAL)),
    }
}

/// Whether everybody of the namespace above has a number here. Nobody may map numbers that the namespace above does not
/// have, so that this says it of all above.
fn is_whole(map: &str) -> bool {
    let length = |line: &str| line.split_ascii_whitespace().nth(2)?.parse().ok();
    // They do not overlap.
    let lengths = map.lines().map(length).collect::<Option<Vec<u64>>>();
    lengths.is_some_and(|lengths| lengths.iter().sum::<u64>() == ALL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_for_many_says_nothing() {
        let not_found = || Err(io::Error::from(io::ErrorKind::NotFound));
        let denied = || Err(io::Error::from(io::ErrorKind::PermissionDenied));
        for (map, overflow, expected) in [
            (Ok("         0          0 4294967295\n"), "65534\n", None),
            (Ok("0 0 1000\n1000 1000 4294966295\n"), "65534\n", None),
            (
                Ok("         0       1000          1\n         1     100000      65536\n"),
                "65534\n",
                Some(65_534),
            ),
            (Ok("0 0 4294967294\n"), "65534\n", Some(65_534)),
            (Ok("0 100000 65536\n"), "60001\n", Some(60_001)),
            (Ok("0 100000 65536\n"), "", Some(65_534)),
            // Not written yet: nobody has a number.
            (Ok(""), "65534\n", Some(65_534)),
            (Ok("nonsense"), "65534\n", Some(65_534)),
            (denied(), "65534\n", Some(65_534)),
            (not_found(), "65534\n", None),
        ] {
            let shown = format!("{map:?}");
            let found = in_place_of_others(map.map(str::to_owned), || Some(overflow.to_owned()));
            assert_eq!(found, expected, "{shown}");
        }
        let selectors = |texts: &[&str]| -> BTreeSet<Selector> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let all = ["unix:uid:7", "unix:gid:8", "unix:supplementary_gid:8", "unix:uid:8", "unix:path:/7"];
        let unmapped = Unmapped { user: Some(7), group: Some(8) };
        assert_eq!(unmapped.without(selectors(&all)), selectors(&["unix:uid:8", "unix:path:/7"]));
        assert_eq!(Unmapped::default().without(selectors(&all)), selectors(&all));
    }

    const LOOKS: &str = "HAUBERK_TEST_LOOKS_FROM_WITHIN";

    #[test]
    #[ignore = "it is what a process does that another test starts"]
    fn sees_nobody() {
        if std::env::var_os(LOOKS).is_none() {
            return;
        }
        let nobody = BTreeSet::from([Selector::UnixUid(USUAL), Selector::UnixGid(USUAL)]);
        assert_eq!(without_unmapped(nobody), BTreeSet::new());
        let root = BTreeSet::from([Selector::UnixUid(0), Selector::UnixGid(0)]);
        assert_eq!(without_unmapped(root.clone()), root);
    }

    #[test]
    fn within_a_namespace_of_its_own_nobody_is_nobody() {
        let mut unshare = std::process::Command::new("unshare");
        unshare.args(["--user", "--map-root-user"]).arg(std::env::current_exe().unwrap());
        unshare.args(["--exact", "workloads::unmapped::tests::sees_nobody", "--ignored"]);
        let Ok(output) = unshare.env(LOOKS, "1").output() else {
            return crate::skipped::skip("unshare is not installed");
        };
        let said = String::from_utf8_lossy(&output.stdout);
        if !said.contains("running 1 test") {
            return crate::skipped::excuse(crate::skipped::Excuse::Kernel, "a user namespace of its own");
        }
        assert!(output.status.success(), "{said}");
    }
}
