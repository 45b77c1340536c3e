//! A grant as Cedar text.

use std::fmt::Write;

use super::{Access, Grant, GrantCaller, GrantError, GrantTarget, Verb};
use crate::pattern::quote;
use crate::vocabulary::Action;

impl Grant {
    /// The grant's policy.
    ///
    /// # Errors
    /// A method or gRPC name in it is malformed.
    pub fn to_cedar(&self, verb: Verb) -> Result<String, GrantError> {
        let (action, mut conditions) = self.access.scope()?;
        let of_port = |port: u16| {
            format!(
                "(resource is Route && resource.port == {port} || resource is Port && resource.number == {port})"
            )
        };
        let resource = match (&self.target, self.port) {
            (GrantTarget::Service(service), port) => {
                conditions.extend(port.map(of_port));
                format!("resource in Service::{}", quote(service.as_str()))
            }
            (GrantTarget::External(external), port) => {
                conditions.extend(port.map(of_port));
                format!("resource in External::{}", quote(external.as_str()))
            }
            (GrantTarget::Node(_) | GrantTarget::Gateway(_), Some(port)) => {
                format!("resource in Port::{}", quote(&format!("{}:{port}", self.target.word())))
            }
            (GrantTarget::Node(_) | GrantTarget::Gateway(_), None) => {
                format!("resource in Node::{}", quote(&self.target.word()))
            }
        };
        let statements: Vec<String> = self
            .callers
            .iter()
            .map(|caller| {
                let principal = caller.scope();
                let mut text = format!("{}(\n  {principal},\n  {action},\n  {resource}\n)", verb.cedar());
                if !conditions.is_empty() {
                    let _ = write!(text, "\nwhen {{ {} }}", conditions.join(" && "));
                }
                text + ";\n"
            })
            .collect();
        Ok(statements.join("\n"))
    }
}

impl Verb {
    fn cedar(self) -> &'static str {
        match self {
            Self::Allow => "permit",
            Self::Deny => "forbid",
        }
    }
}

impl GrantCaller {
    pub(crate) fn scope(&self) -> String {
        match self {
            Self::Node(_) | Self::Gateway(_) | Self::Foreign(_) => {
                format!("principal == Node::{}", quote(&self.word()))
            }
            Self::Role(role) => format!("principal in Role::{}", quote(role.as_str())),
            Self::Workload(id) => format!("principal == Workload::{}", quote(id.as_str())),
            Self::Anonymous => "principal is Anonymous".to_owned(),
        }
    }
}

impl Access {
    /// The scope's `action` clause, and conditions.
    pub(super) fn scope(&self) -> Result<(String, Vec<String>), GrantError> {
        match self {
            Self::All => Ok(("action".to_owned(), Vec::new())),
            Self::Http { methods, path } => {
                let mut conditions = Vec::new();
                let action = methods_scope(methods, &mut conditions)?;
                conditions.extend(path.as_ref().map(|path| format!("context.path {}", path.to_cedar())));
                Ok((action, conditions))
            }
            Self::Rpc { service, method } => {
                let is_word = |text: &str, more: &str| {
                    !text.is_empty()
                        && text.chars().all(|char| char.is_ascii_alphanumeric() || more.contains(char))
                };
                if !is_word(service, "._") || !method.as_deref().is_none_or(|method| is_word(method, "_")) {
                    let method = method.as_deref().unwrap_or("*");
                    return Err(GrantError::Rpc(format!("{service}/{method}")));
                }
                let mut conditions = vec![format!("context.service == {}", quote(service))];
                conditions.extend(method.as_ref().map(|method| format!("context.rpc == {}", quote(method))));
                Ok(("action == Action::\"call\"".to_owned(), conditions))
            }
        }
    }
}

fn methods_scope(methods: &[String], conditions: &mut Vec<String>) -> Result<String, GrantError> {
    let is_token = |method: &&String| {
        !method.is_empty()
            && method.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
    };
    if let Some(bad) = methods.iter().find(|method| !is_token(method)) {
        return Err(GrantError::Method(bad.clone()));
    }
    let mut actions: Vec<&str> = Vec::new();
    let mut has_other = false;
    for method in methods {
        let action = match method.as_str() {
            "upgrade" => Action::Upgrade,
            method => Action::of_method(method),
        };
        has_other |= action == Action::Other;
        if !actions.contains(&action.as_str()) {
            actions.push(action.as_str());
        }
    }
    if has_other {
        let methods: Vec<_> =
            methods.iter().filter(|method| *method != "upgrade").map(|method| quote(method)).collect();
        let mut condition = format!("[{}].contains(context.method)", methods.join(", "));
        if actions.contains(&Action::Upgrade.as_str()) {
            condition = format!("(action == Action::\"upgrade\" || {condition})");
        }
        conditions.push(condition);
    }
    let uids: Vec<_> = actions.iter().map(|action| format!("Action::{}", quote(action))).collect();
    Ok(match uids.as_slice() {
        [] => "action in Action::\"http\"".to_owned(),
        [one] => format!("action == {one}"),
        several => format!("action in [{}]", several.join(", ")),
    })
}
