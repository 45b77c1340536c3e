//! A grant in words: the command that makes it, and the name of its policy.

use hauberk_identity::Name;

use super::{Access, Grant, GrantCaller, GrantTarget, Verb};

/// The longest name that [`Grant::name`] makes, in bytes.
pub(crate) const MAX_NAME_LEN: usize = 120;

impl Grant {
    /// The name of the grant's policy, always the same for the same grant and another for another: such as
    /// `allow-web-to-orders`, with a few words and digits more where the grant is anything but one node's full access
    /// to one service.
    pub fn name(&self, verb: Verb) -> String {
        let callers: Vec<_> = self.callers.iter().map(GrantCaller::plain).collect();
        let target = match &self.target {
            GrantTarget::Node(node) => format!("node/{node}"),
            other => other.word(),
        };
        let mut words = format!("{} {} to {target}", verb.as_str(), callers.join(" and "));
        for word in self.details() {
            words.push(' ');
            words.push_str(&word);
        }
        let mut name = String::new();
        for char in words.chars() {
            let kept = if char.is_ascii_alphanumeric() || char == '_' || char == '.' { char } else { '-' };
            if !(kept == '-' && name.ends_with('-')) {
                name.push(kept);
            }
        }
        if self.is_plain() && name.len() <= MAX_NAME_LEN {
            return name;
        }
        let name = name.get(..name.len().min(MAX_NAME_LEN)).unwrap_or_default().trim_matches('-');
        format!("{name}-{:06x}", fnv(&words) & 0xff_ffff)
    }

    /// The command that makes the grant in the mesh that the command line works in, quoted for a POSIX shell.
    pub fn command(&self, verb: Verb) -> String {
        in_shell(&self.words(verb))
    }

    /// The same in this mesh, whichever the command line works in.
    pub fn command_in(&self, mesh: &Name, verb: Verb) -> String {
        let mut words = self.words(verb);
        words.extend(["--mesh".to_owned(), mesh.to_string()]);
        in_shell(&words)
    }

    fn words(&self, verb: Verb) -> Vec<String> {
        let callers: Vec<_> = self.callers.iter().map(GrantCaller::word).collect();
        let mut words =
            vec!["hauberk".to_owned(), verb.as_str().to_owned(), callers.join(","), self.target.word()];
        match &self.access {
            Access::All => {}
            Access::Http { methods, path } => {
                let methods = methods.join(",");
                if methods.starts_with('-') {
                    // By itself it would be an option.
                    words.push(format!("--methods={methods}"));
                } else if !methods.is_empty() {
                    words.extend(["--methods".to_owned(), methods]);
                }
                if let Some(path) = path {
                    words.extend(["--path".to_owned(), path.to_string()]);
                }
            }
            Access::Rpc { service, method } => {
                words.extend(["--rpc".to_owned(), format!("{service}/{}", method.as_deref().unwrap_or("*"))]);
            }
        }
        words.extend(self.port.into_iter().flat_map(|port| ["--port".to_owned(), port.to_string()]));
        words
    }

    /// Whether the two names alone tell the grant, and where one ends and the other begins.
    fn is_plain(&self) -> bool {
        let has_to = |name: &Name| name.as_str().split('-').any(|word| word == "to");
        let is_told = match (self.callers.as_slice(), &self.target) {
            ([GrantCaller::Node(caller)], GrantTarget::Service(target)) => !has_to(caller) && !has_to(target),
            _ => false,
        };
        is_told && self.port.is_none() && self.access == Access::All
    }

    /// What makes the grant narrower than all access, in words.
    fn details(&self) -> Vec<String> {
        let mut words: Vec<String> = self.port.iter().map(ToString::to_string).collect();
        match &self.access {
            Access::All => {}
            Access::Http { methods, path } => {
                words.push(if methods.is_empty() {
                    "http".to_owned()
                } else {
                    methods.join(" ").to_lowercase()
                });
                words.extend(path.as_ref().map(ToString::to_string));
            }
            Access::Rpc { service, method } => {
                words.push(format!("{service}/{}", method.as_deref().unwrap_or("*")));
            }
        }
        words
    }
}

impl Verb {
    fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

impl GrantCaller {
    /// As the command line takes it.
    pub(crate) fn word(&self) -> String {
        match self {
            Self::Node(name) => name.to_string(),
            Self::Gateway(name) => format!("gateway/{name}"),
            Self::Role(name) => format!("role/{name}"),
            Self::Foreign(id) | Self::Workload(id) => id.to_string(),
            Self::Anonymous => "@anonymous".to_owned(),
        }
    }

    /// The same for a policy's name.
    fn plain(&self) -> String {
        match self {
            Self::Foreign(id) | Self::Workload(id) => id.as_str().trim_start_matches("spiffe://").to_owned(),
            other => other.word(),
        }
    }
}

impl GrantTarget {
    pub(crate) fn word(&self) -> String {
        match self {
            Self::Service(name) | Self::Node(name) => name.to_string(),
            Self::Gateway(name) => format!("gateway/{name}"),
            Self::External(name) => format!("external/{name}"),
        }
    }
}

fn in_shell(words: &[String]) -> String {
    words.iter().map(|word| shell_quote(word)).collect::<Vec<_>>().join(" ")
}

/// Quotes one word for a POSIX shell, if it needs it.
pub fn shell_quote(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:,@%+=".contains(&byte);
    if !word.is_empty() && word.bytes().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// FNV-1a: stable wherever the name is made, which the standard library's hashes are not.
fn fnv(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}
