//! Where the kernel has put a process: which container and which systemd unit its control groups say that it is in.

use std::fmt;
use std::sync::Arc;

use hauberk_identity::Selector;
use thiserror::Error;

/// What /proc/PID/cgroup holds (cgroups(7)): one place in each hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cgroups {
    places: Vec<Place>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    /// Which hierarchy; empty: that of version 2.
    controllers: String,
    path: String,
}

/// The id that an engine has given to a container: 64 hexadecimal digits in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ContainerId(Arc<str>);

/// A container's own control groups, as far as its id stands in their paths: whoever is in them is in that container,
/// or has been given a group that is named like one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Membership {
    pub(super) id: ContainerId,
    /// The path of each up to the id.
    groups: Vec<Place>,
}

/// A process that seems to be in two containers. The fault is whoever set up its control groups or mounts.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("it seems to be in two containers, {0} and {1}")]
pub(super) struct Ambiguous(ContainerId, ContainerId);

impl Cgroups {
    /// Parses /proc/PID/cgroup. `None` where that is not what it should be.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let place = |line: &str| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?.to_owned(), parts.next()?.to_owned());
            Some(Place { controllers, path })
        };
        Some(Self { places: text.lines().map(place).collect::<Option<_>>()? })
    }

    /// The container that their paths name; `None` where they name none.
    ///
    /// # Errors
    /// They name several.
    pub(super) fn container(&self) -> Result<Option<Membership>, Ambiguous> {
        let mut found: Option<Membership> = None;
        for Place { controllers, path } in &self.places {
            let Some((id, group)) = innermost(path) else { continue };
            let group = Place { controllers: controllers.clone(), path: group.to_owned() };
            match &mut found {
                None => found = Some(Membership { id, groups: vec![group] }),
                Some(known) if known.id == id => known.groups.push(group),
                Some(known) => return Err(Ambiguous(known.id.clone(), id)),
            }
        }
        Ok(found)
    }

    /// The unit of the system's systemd, as systemd itself reads it from the path of its own hierarchy: the first part
    /// that is no slice. `None` where that is no unit, or where paths are told from within a part of the tree that is
    /// not ours.
    pub(super) fn unit(&self) -> Option<Selector> {
        let of = |controllers: &str| self.places.iter().find(|place| place.controllers == controllers);
        let path = &of("name=systemd").or_else(|| of(""))?.path;
        let parts = || path.split('/').filter(|part| !part.is_empty());
        if parts().any(|part| part == "..") {
            return None;
        }
        let part = parts().find(|part| !part.ends_with(".slice"))?;
        // What could be taken for a file of the kernel's has an underscore before it.
        Selector::systemd_id(part.strip_prefix('_').unwrap_or(part))
    }
}

impl ContainerId {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The container that /proc/PID/mountinfo (proc(5)) names as the root of mounted control groups. Whoever may mount
/// decides what stands there.
///
/// # Errors
/// It names several.
pub(super) fn mounted_container(mountinfo: &str) -> Result<Option<ContainerId>, Ambiguous> {
    let mut found: Option<ContainerId> = None;
    for line in mountinfo.lines() {
        let Some((mount, kind)) = line.split_once(" - ") else { continue };
        let is_of_groups = matches!(kind.split(' ').next(), Some("cgroup" | "cgroup2"));
        let root = mount.split(' ').nth(3).filter(|_| is_of_groups);
        let Some((id, _)) = root.and_then(innermost) else { continue };
        match &found {
            Some(known) if *known != id => return Err(Ambiguous(known.clone(), id)),
            _ => found = Some(id),
        }
    }
    Ok(found)
}

/// The last part of a path that holds a container's id, and the path up to its end.
fn innermost(path: &str) -> Option<(ContainerId, &str)> {
    let mut rest = path;
    loop {
        let part = rest.rsplit('/').next().unwrap_or_default();
        let mut words = part.split(|character: char| !character.is_ascii_alphanumeric() && character != '_');
        if let Some(id) = words.find(|word| is_id(word)) {
            return Some((ContainerId(id.into()), rest));
        }
        rest = rest.rsplit_once('/')?.0;
    }
}

fn is_id(word: &str) -> bool {
    word.len() == 64 && word.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ONE: &str = "1111111111111111111111111111111111111111111111111111111111111111";
    const TWO: &str = "2222222222222222222222222222222222222222222222222222222222222222";

    fn of(text: &str) -> Cgroups {
        Cgroups::parse(&text.replace("ONE", ONE).replace("TWO", TWO)).unwrap()
    }

    fn container(text: &str) -> Option<String> {
        of(text).container().unwrap().map(|membership| membership.id.to_string())
    }

    #[test]
    fn the_container_is_found_in_both_versions() {
        for text in [
            "12:memory:/docker/ONE\n1:name=systemd:/docker/ONE\n0::/system.slice/containerd.service\n",
            "0::/system.slice/docker-ONE.scope",
            "0::/../ONE",
            "0::/kubepods/besteffort/poda2830d0d-b0f0-4ff0-81b5-0ee4e299cf80/ONE/init",
            "0::/machine.slice/libpod-ONE.scope/container",
            "0::/docker/TWO/docker/ONE",
            "0::/a:b/cri-containerd-ONE.scope",
        ] {
            assert_eq!(container(text).as_deref(), Some(ONE), "{text}");
        }
        for text in [
            "",
            "0::/",
            "0::/user.slice/user-1000.slice",
            "0::/docker/ONE1",
            "0::/docker/xONE",
            "0::/docker/_ONE",
        ] {
            assert_eq!(container(text), None, "{text}");
        }
        assert!(of("2:cpu:/docker/ONE\n1:pids:/docker/TWO").container().is_err());
        assert_eq!(Cgroups::parse("0:"), None);
    }

    #[test]
    fn a_group_named_like_a_container_is_not_that_container() {
        let victim = of("0::/docker/ONE").container().unwrap();
        assert_eq!(of("0::/docker/ONE/init.scope").container().unwrap(), victim);
        let forged = of("0::/docker/TWO/ONE").container().unwrap();
        assert_eq!(forged.clone().unwrap().id, victim.clone().unwrap().id);
        assert_ne!(forged, victim);
        assert_ne!(of("2:cpu:/docker/ONE\n0::/docker/ONE").container().unwrap(), victim);
    }

    #[test]
    fn mounts_name_a_container_where_control_groups_do_not() {
        let mounts = "1543 1542 0:32 /../../docker-ONE.scope /sys/fs/cgroup ro - cgroup2 cgroup rw\n\
                      1544 1542 0:26 / /mnt/cgroup rw master:9 - cgroup2 cgroup2 rw\n\
                      1545 1542 8:1 /var/lib/docker/containers/TWO/hosts /etc/hosts rw - ext4 /dev/sda rw\n\
                      1546 1542 0:45 / /run rw - tmpfs  rw\n";
        let mounts = mounts.replace("ONE", ONE).replace("TWO", TWO);
        assert_eq!(mounted_container(&mounts).unwrap().unwrap().as_str(), ONE);
        let both = format!("{mounts}1 1 0:1 /{TWO} /mnt rw - cgroup cgroup rw\n");
        assert!(mounted_container(&both).is_err());
        assert_eq!(mounted_container("nonsense\n- -\n").unwrap(), None);
    }

    #[test]
    fn the_unit_is_the_one_that_systemd_would_say() {
        let unit = |text: &str| of(text).unit().map(|selector| selector.to_string());
        for (text, id) in [
            ("0::/system.slice/nginx.service", "nginx.service"),
            ("0::/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service"),
            ("0::/system.slice/nginx.service/payload/other.service", "nginx.service"),
            ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/nginx.service", "user@1000.service"),
            ("0::/user.slice/user-1000.slice/session-2.scope", "session-2.scope"),
            ("0::/init.scope", "init.scope"),
            ("0::/system.slice/_cpu.service", "cpu.service"),
            ("9:name=systemd:/system.slice/a.service\n0::/system.slice/b.service", "a.service"),
            ("1:cpu:/system.slice/a.service\n0::/system.slice/b.service", "b.service"),
            ("0::/system.slice/docker-ONE.scope", &format!("docker-{ONE}.scope")),
        ] {
            assert_eq!(unit(text).as_deref(), Some(format!("systemd:id:{id}").as_str()), "{text}");
        }
        for text in [
            "0::/",
            "0::/system.slice",
            "0::/docker/ONE",
            "0::/docker/ONE/system.slice/nginx.service",
            "0::/../../system.slice/nginx.service",
            "0::/../system.slice/nginx.service",
            "0::/system.slice/nginx.service (deleted)",
            "9:name=systemd:/\n0::/system.slice/nginx.service",
            "1:cpu:/system.slice/nginx.service",
        ] {
            assert_eq!(unit(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn whatever_stands_there_is_read(text in "[0-9a-f:/. \n_-]{0,200}", path in "(/[0-9a-f]{62,66}|/[a-z._]{1,9}){0,4}") {
            for text in [text, format!("0::{path}")] {
                if let Some(groups) = Cgroups::parse(&text) {
                    let _ = groups.container();
                    let _ = groups.unit();
                }
                let _ = mounted_container(&text);
            }
        }
    }
}
