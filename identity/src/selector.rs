//! Selectors: what must be true of a program for it to get an identity.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

/// The longest path, in bytes (`PATH_MAX` of Linux), and the longest of other texts.
const MAX_PATH: usize = 4096;
/// The longest name of a systemd unit, in bytes.
const MAX_UNIT: usize = 255;
/// How the names of those units end in which processes run.
const UNIT_TYPES: [&str; 6] = [".service", ".scope", ".slice", ".socket", ".mount", ".swap"];

/// One thing that an agent can find out about a program on its own host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Selector {
    /// `unix:uid:1000`: it runs as this user.
    UnixUid(u32),
    /// `unix:gid:1000`: its own group is this one.
    UnixGid(u32),
    /// `unix:supplementary_gid:27`: it is in this group besides.
    UnixSupplementaryGid(u32),
    /// `unix:path:/usr/bin/worker`: its executable is this file.
    UnixPath(Arc<str>),
    /// `unix:sha256:…`: its executable has this SHA-256.
    UnixSha256([u8; 32]),
    /// `docker:label:com.example.name:worker`: its container has this label.
    DockerLabel(Pair),
    /// `docker:env:NAME=worker`: its container was made with this variable.
    DockerEnv(Pair),
    /// `docker:image_id:registry.example/worker:1`: its container was made of an image under this name.
    DockerImageId(Image),
    /// `docker:image_config_digest:sha256:…`: its container's image is this one.
    DockerImageConfigDigest([u8; 32]),
    /// `systemd:id:worker.service`: it runs in this unit of the system's systemd.
    SystemdId(Unit),
    /// `systemd:fragment_path:/etc/systemd/system/worker.service`: that unit was read from this file.
    SystemdFragmentPath(Arc<str>),
}

/// A name and its value, as containers have them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pair {
    name: Arc<str>,
    value: Arc<str>,
}

/// The name of an image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Image(Arc<str>);

/// The name of a systemd unit in which processes run.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Unit(Arc<str>);

/// Why a text is no [`Selector`]. The fault is whoever wrote the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SelectorError {
    /// It begins with nothing that is known.
    #[error("it begins with none of {}", Selector::KINDS.join(", "))]
    Kind,
    /// Not a user's or group's number.
    #[error("a number of a user or group is needed, such as 1000, without leading zeros")]
    Number,
    /// Not the path of a file, in its one spelling.
    #[error(
        "an absolute path is needed, without \"//\", \"/./\", \"/../\", control characters or a slash at its end"
    )]
    Path,
    /// Not a digest.
    #[error("64 hexadecimal digits in lower case are needed")]
    Digest,
    /// Not a label.
    #[error(
        "a label's name, a colon and its value are needed, such as com.example.name:worker, without control characters"
    )]
    Label,
    /// Not a variable.
    #[error("a variable's name, = and its value are needed, such as NAME=worker, without control characters")]
    Variable,
    /// Not an image's name.
    #[error(
        "the name by which containers are made of the image is needed, such as registry.example/worker:1"
    )]
    Image,
    /// Not an image's digest.
    #[error(
        "sha256: and 64 hexadecimal digits in lower case are needed, as `docker inspect` shows a container's Image"
    )]
    ImageDigest,
    /// Not a unit.
    #[error("the whole name of a unit is needed, such as worker.service")]
    Unit,
}

impl Selector {
    /// How each kind of selector begins.
    pub const KINDS: [&'static str; 11] = [
        "unix:uid:",
        "unix:gid:",
        "unix:supplementary_gid:",
        "unix:path:",
        "unix:sha256:",
        "docker:label:",
        "docker:env:",
        "docker:image_id:",
        "docker:image_config_digest:",
        "systemd:id:",
        "systemd:fragment_path:",
    ];

    /// Whether no program has both, because it has one value alone of what they say.
    pub fn excludes(&self, other: &Self) -> bool {
        let is_of_one = match (self, other) {
            (Self::DockerLabel(one), Self::DockerLabel(other)) => one.name == other.name,
            (Self::UnixUid(_), Self::UnixUid(_))
            | (Self::UnixGid(_), Self::UnixGid(_))
            | (Self::UnixPath(_), Self::UnixPath(_))
            | (Self::UnixSha256(_), Self::UnixSha256(_))
            | (Self::DockerImageConfigDigest(_), Self::DockerImageConfigDigest(_))
            | (Self::SystemdId(_), Self::SystemdId(_))
            | (Self::SystemdFragmentPath(_), Self::SystemdFragmentPath(_)) => true,
            _ => false,
        };
        is_of_one && self != other
    }

    /// Parses a selector. One thing has one spelling.
    ///
    /// # Errors
    /// Says what would be right.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let (attestor, rest) = text.split_once(':').ok_or(SelectorError::Kind)?;
        let (kind, value) = rest.split_once(':').ok_or(SelectorError::Kind)?;
        match (attestor, kind) {
            ("unix", "uid") => parse_number(value).map(Self::UnixUid),
            ("unix", "gid") => parse_number(value).map(Self::UnixGid),
            ("unix", "supplementary_gid") => parse_number(value).map(Self::UnixSupplementaryGid),
            ("unix", "path") => parse_path(value).map(Self::UnixPath),
            ("unix", "sha256") => parse_digest(value).map(Self::UnixSha256).ok_or(SelectorError::Digest),
            ("docker", "label") => {
                let (name, value) = value.split_once(':').ok_or(SelectorError::Label)?;
                Self::docker_label(name, value).ok_or(SelectorError::Label)
            }
            ("docker", "env") => Self::docker_env(value).ok_or(SelectorError::Variable),
            ("docker", "image_id") => Self::docker_image_id(value).ok_or(SelectorError::Image),
            ("docker", "image_config_digest") => {
                Self::docker_image_config_digest(value).ok_or(SelectorError::ImageDigest)
            }
            ("systemd", "id") => Self::systemd_id(value).ok_or(SelectorError::Unit),
            ("systemd", "fragment_path") => parse_path(value).map(Self::SystemdFragmentPath),
            _ => Err(SelectorError::Kind),
        }
    }

    /// Of a container's label. `None` for one that no selector can tell from another: a name with a colon in it could end
    /// where another label's value begins.
    pub fn docker_label(name: &str, value: &str) -> Option<Self> {
        Pair::new(name, value).filter(|_| !name.contains(':')).map(Self::DockerLabel)
    }

    /// Of a container's variable, written `NAME=value`.
    pub fn docker_env(variable: &str) -> Option<Self> {
        let (name, value) = variable.split_once('=')?;
        Pair::new(name, value).map(Self::DockerEnv)
    }

    /// Of the name of an image.
    pub fn docker_image_id(name: &str) -> Option<Self> {
        let is_name = !name.is_empty() && is_text(name) && !name.contains(char::is_whitespace);
        is_name.then(|| Self::DockerImageId(Image(name.into())))
    }

    /// Of the digest of an image, written `sha256:…`.
    pub fn docker_image_config_digest(digest: &str) -> Option<Self> {
        digest.strip_prefix("sha256:").and_then(parse_digest).map(Self::DockerImageConfigDigest)
    }

    /// Of the name of a unit in which processes run.
    pub fn systemd_id(name: &str) -> Option<Self> {
        let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
        let is_unit = name.len() <= MAX_UNIT
            && name.bytes().all(is_known)
            && UNIT_TYPES.iter().any(|end| name.strip_suffix(end).is_some_and(|rest| !rest.is_empty()));
        is_unit.then(|| Self::SystemdId(Unit(name.into())))
    }

    /// Of the path of a unit's file.
    pub fn systemd_fragment_path(path: &str) -> Option<Self> {
        parse_path(path).ok().map(Self::SystemdFragmentPath)
    }
}

impl Pair {
    fn new(name: &str, value: &str) -> Option<Self> {
        let is_pair = !name.is_empty() && is_text(name) && is_text(value);
        is_pair.then(|| Self { name: name.into(), value: value.into() })
    }
}

impl Unit {
    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_text(text: &str) -> bool {
    text.len() <= MAX_PATH && !text.chars().any(char::is_control)
}

fn parse_path(path: &str) -> Result<Arc<str>, SelectorError> {
    if is_path(path) { Ok(path.into()) } else { Err(SelectorError::Path) }
}

fn parse_number(text: &str) -> Result<u32, SelectorError> {
    let number: u32 = text.parse().map_err(|_| SelectorError::Number)?;
    if number.to_string() == text { Ok(number) } else { Err(SelectorError::Number) }
}

fn is_path(path: &str) -> bool {
    let segments = || path.split('/').skip(1);
    path.starts_with('/')
        && path.len() <= MAX_PATH
        && !path.chars().any(char::is_control)
        && segments().all(|segment| !matches!(segment, "" | "." | ".."))
}

fn parse_digest(text: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    let is_lower_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if text.len() != 64 || !text.bytes().all(is_lower_hex) {
        return None;
    }
    for (index, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(digest)
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        Self::parse(text)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnixUid(uid) => write!(f, "unix:uid:{uid}"),
            Self::UnixGid(gid) => write!(f, "unix:gid:{gid}"),
            Self::UnixSupplementaryGid(gid) => write!(f, "unix:supplementary_gid:{gid}"),
            Self::UnixPath(path) => write!(f, "unix:path:{path}"),
            Self::UnixSha256(digest) => write!(f, "unix:sha256:{}", Hex(digest)),
            Self::DockerLabel(Pair { name, value }) => write!(f, "docker:label:{name}:{value}"),
            Self::DockerEnv(Pair { name, value }) => write!(f, "docker:env:{name}={value}"),
            Self::DockerImageId(Image(name)) => write!(f, "docker:image_id:{name}"),
            Self::DockerImageConfigDigest(digest) => {
                write!(f, "docker:image_config_digest:sha256:{}", Hex(digest))
            }
            Self::SystemdId(Unit(name)) => write!(f, "systemd:id:{name}"),
            Self::SystemdFragmentPath(path) => write!(f, "systemd:fragment_path:{path}"),
        }
    }
}

struct Hex<'a>(&'a [u8; 32]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_thing_has_one_spelling() {
        let digest = format!("unix:sha256:{}", "0a".repeat(32));
        let image = format!("docker:image_config_digest:sha256:{}", "f0".repeat(32));
        for text in [
            "unix:uid:0",
            "unix:gid:4294967295",
            "unix:supplementary_gid:27",
            "unix:path:/a b",
            &digest,
            "docker:label:com.example.name:a:b c",
            "docker:label:x:",
            "docker:env:A=b=c:d",
            "docker:image_id:registry.example:5000/worker:1",
            &image,
            "systemd:id:getty@tty1.service",
            "systemd:id:a\\x2db.service",
            "systemd:fragment_path:/etc/systemd/system/getty@.service",
        ] {
            assert_eq!(Selector::parse(text).unwrap().to_string(), *text);
        }
        for (text, error) in [
            ("", SelectorError::Kind),
            ("unix:user:root", SelectorError::Kind),
            ("UNIX:uid:1", SelectorError::Kind),
            ("unix:uid:", SelectorError::Number),
            ("unix:uid:+1", SelectorError::Number),
            ("unix:uid:01", SelectorError::Number),
            ("unix:uid:-1", SelectorError::Number),
            ("unix:uid:4294967296", SelectorError::Number),
            ("unix:path:usr/bin/x", SelectorError::Path),
            ("unix:path:/", SelectorError::Path),
            ("unix:path:/usr//bin", SelectorError::Path),
            ("unix:path:/usr/../bin", SelectorError::Path),
            ("unix:path:/usr/bin/", SelectorError::Path),
            ("unix:path:/usr\n", SelectorError::Path),
            ("unix:sha256:00", SelectorError::Digest),
            ("docker:label:name", SelectorError::Label),
            ("docker:label::value", SelectorError::Label),
            ("docker:label:a:b\u{7f}", SelectorError::Label),
            ("docker:env:NAME", SelectorError::Variable),
            ("docker:env:=value", SelectorError::Variable),
            ("docker:image_id:", SelectorError::Image),
            ("docker:image_id:a b", SelectorError::Image),
            ("docker:image_config_digest:00", SelectorError::ImageDigest),
            ("docker:image:x", SelectorError::Kind),
            ("systemd:id:worker", SelectorError::Unit),
            ("systemd:id:.service", SelectorError::Unit),
            ("systemd:id:a/b.service", SelectorError::Unit),
            ("systemd:id:worker.timer", SelectorError::Unit),
            ("systemd:fragment_path:worker.service", SelectorError::Path),
        ] {
            assert_eq!(Selector::parse(text), Err(error), "{text}");
        }
        assert!(Selector::parse(&digest.to_uppercase().replace("UNIX:SHA", "unix:sha")).is_err());
    }

    proptest! {
        #[test]
        fn what_is_parsed_is_written_as_it_was(kind in 0..Selector::KINDS.len(), value in ".{0,40}") {
            let text = format!("{}{value}", Selector::KINDS[kind]);
            if let Ok(selector) = Selector::parse(&text) {
                prop_assert_eq!(selector.to_string(), text);
            }
        }

        /// A container's maker chooses names and values: none of them is another's selector.
        #[test]
        fn what_differs_has_different_selectors(names in ["[a-c:=]{1,3}", "[a-c:=]{1,3}"], values in ["[a-c:=]{0,3}", "[a-c:=]{0,3}"]) {
            let label = |index: usize| Selector::docker_label(&names[index], &values[index]);
            let is_same = (&names[0], &values[0]) == (&names[1], &values[1]);
            if let (Some(one), Some(other)) = (label(0), label(1)) {
                prop_assert_eq!(one.to_string() == other.to_string(), is_same);
                prop_assert_eq!(Selector::parse(&one.to_string()), Ok(one));
            }
        }
    }
}
