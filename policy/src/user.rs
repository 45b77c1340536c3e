//! Users: what of a verified token policies are told, and how an issuer's claims become that.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use cedar_policy::{Entity, EntityUid};
use hauberk_identity::{Name, SpiffeId};
use serde_json::{Map, Value};
use thiserror::Error;

use crate::context::{set, string};
use crate::names::issued_id;
use crate::vocabulary::Kind;

/// The longest name of a user, group, scope or role, and the longest value of a claim, in bytes; and the most groups,
/// scopes, roles, or values of one claim.
const MAX_NAME_LEN: usize = 1_024;
const MAX_VALUES: usize = 1_024;

/// For whom a request is made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum OnBehalfOf {
    /// Nobody looked.
    #[default]
    NotLookedAt,
    /// For no user.
    Nobody,
    /// For a user.
    User(Arc<Origin>),
}

/// A user, and how the call came here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Who.
    pub user: User,
    /// Who passed the user on before the caller did, the first one first.
    pub actors: Vec<SpiffeId>,
}

/// A user, by the word of an issuer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The `JwtIssuer`.
    pub issuer: Name,
    /// What it calls itself.
    pub issuer_url: Arc<str>,
    /// What it calls the user.
    pub id: Box<str>,
    /// Its groups that the user is in.
    pub groups: Vec<Box<str>>,
    /// What the token may be used for.
    pub scopes: Vec<Box<str>>,
    /// The user's roles at the issuer.
    pub roles: Vec<Box<str>>,
    /// Further claims by name, each with its values.
    pub claims: BTreeMap<Box<str>, Vec<Box<str>>>,
}

/// Which claims of an issuer's tokens say what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimsMapping {
    /// The user's name.
    pub user: String,
    /// The groups that the user is in.
    pub groups: Vec<String>,
    /// What the token may be used for; a text is a list of words.
    pub scopes: Vec<String>,
    /// The user's roles.
    pub roles: Vec<String>,
}

/// Why a token's claims make no user. The fault is the issuer's, or of whoever says how to read its tokens.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ClaimsProblem {
    /// The claim that names the user is missing, or no name.
    #[error("the claim {0:?}, which names the user, is missing or no name")]
    User(String),
    /// A claim can be read in two ways, or says too much.
    #[error("the claim {0:?} can be read in two ways, or has too many values or too long ones")]
    Claim(String),
}

impl Default for ClaimsMapping {
    /// By the names of OpenID Connect and RFC 9068.
    fn default() -> Self {
        let one = |name: &str| vec![name.to_owned()];
        Self { user: "sub".to_owned(), groups: one("groups"), scopes: one("scope"), roles: one("roles") }
    }
}

impl ClaimsMapping {
    /// The user of a token with these claims, with those further ones that are `wanted`.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn user<'w>(
        &self,
        claims: &Map<String, Value>,
        wanted: impl IntoIterator<Item = &'w str>,
        issuer: &Name,
        issuer_url: &Arc<str>,
    ) -> Result<User, ClaimsProblem> {
        // What is no name of anything names nothing that a policy could: it makes nobody's token useless.
        let all = |names: &[String], parts: fn(&str) -> Vec<&str>| {
            let mut all = BTreeSet::new();
            for name in names {
                let texts = texts(claims, name)?.unwrap_or_default();
                let parts = texts.iter().flat_map(|text| parts(text));
                all.extend(parts.filter(|part| (1..=MAX_NAME_LEN).contains(&part.len())).map(Box::from));
                if all.len() > MAX_VALUES {
                    return Err(ClaimsProblem::Claim(name.clone()));
                }
            }
            Ok(all.into_iter().collect::<Vec<Box<str>>>())
        };
        let id = match &find(claims, &self.user)?[..] {
            [Value::String(id)] if is_name(id) => id.as_str().into(),
            _ => return Err(ClaimsProblem::User(self.user.clone())),
        };
        let groups = all(&self.groups, |text| vec![text])?;
        if let (Some(name), false) = (self.groups.first(), groups.iter().all(|group| is_name(group))) {
            return Err(ClaimsProblem::Claim(name.clone()));
        }
        let scopes = all(&self.scopes, |text| text.split_whitespace().collect())?;
        let roles = all(&self.roles, |text| vec![text])?;
        let mut further = BTreeMap::new();
        for name in wanted {
            if let Some(values) = values(claims, name)? {
                further.insert(Box::from(name), values);
            }
        }
        let (issuer, issuer_url) = (issuer.clone(), Arc::clone(issuer_url));
        Ok(User { issuer, issuer_url, id, groups, scopes, roles, claims: further })
    }
}

impl OnBehalfOf {
    /// The user with what is known of the call, if there is one.
    pub fn origin(&self) -> Option<&Arc<Origin>> {
        match self {
            Self::User(origin) => Some(origin),
            Self::NotLookedAt | Self::Nobody => None,
        }
    }
}

impl Origin {
    /// About how many bytes it holds.
    pub fn size(&self) -> usize {
        let User { groups, scopes, roles, claims, id, issuer, issuer_url: _ } = &self.user;
        let of_claims = claims.iter().flat_map(|(name, values)| [name].into_iter().chain(values));
        let texts = groups.iter().chain(scopes).chain(roles).chain(of_claims).chain([id]);
        let actors = self.actors.iter().map(|actor| actor.as_str().len());
        texts.map(|text| text.len()).chain(actors).sum::<usize>() + issuer.as_str().len()
    }
}

impl User {
    /// As policies write it: `login/alice`.
    pub fn name(&self) -> String {
        issued_id(&self.issuer, &self.id)
    }

    pub(crate) fn uid(&self) -> EntityUid {
        Kind::User.uid(self.name())
    }

    pub(crate) fn entity(&self) -> Option<Entity> {
        let texts = |values: &[Box<str>]| set(values.iter().map(|value| Cow::Borrowed(&**value)));
        let attributes = HashMap::from([
            ("issuer".to_owned(), string(&*self.issuer_url)),
            ("scopes".to_owned(), texts(&self.scopes)),
            ("roles".to_owned(), texts(&self.roles)),
        ]);
        let groups = self.groups.iter().map(|group| Kind::UserGroup.uid(issued_id(&self.issuer, group)));
        Entity::new(self.uid(), attributes, groups.collect()).ok()
    }
}

/// What may stand for a user or group.
fn is_name(text: &str) -> bool {
    (1..=MAX_NAME_LEN).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// The values of a claim, all of which may be told.
fn values(claims: &Map<String, Value>, name: &str) -> Result<Option<Vec<Box<str>>>, ClaimsProblem> {
    let values = texts(claims, name)?;
    let mut all = values.iter().flatten();
    if all.any(|value| value.len() > MAX_NAME_LEN) {
        return Err(ClaimsProblem::Claim(name.to_owned()));
    }
    Ok(values)
}

/// The values of a claim as texts: a list's one by one, and none of what is neither text, number nor boolean. `None`
/// where there is no such claim.
fn texts(claims: &Map<String, Value>, name: &str) -> Result<Option<Vec<Box<str>>>, ClaimsProblem> {
    let found = find(claims, name)?;
    let Some(value) = found.first() else { return Ok(None) };
    let listed = match value {
        Value::Array(items) => items.as_slice(),
        one => std::slice::from_ref(*one),
    };
    let texts: Vec<_> = listed.iter().filter_map(text).collect::<BTreeSet<_>>().into_iter().collect();
    if texts.len() > MAX_VALUES { Err(ClaimsProblem::Claim(name.to_owned())) } else { Ok(Some(texts)) }
}

fn text(value: &Value) -> Option<Box<str>> {
    match value {
        Value::String(text) => Some(text.as_str().into()),
        Value::Number(number) => Some(number.to_string().into()),
        Value::Bool(value) => Some(value.to_string().into()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// What stands under a name, of which a dot is a part or leads into an object. Two readings are none.
fn find<'a>(claims: &'a Map<String, Value>, name: &str) -> Result<Vec<&'a Value>, ClaimsProblem> {
    let mut found: Vec<&Value> = claims.get(name).filter(|value| !value.is_null()).into_iter().collect();
    for (at, _) in name.match_indices('.') {
        let (Some(outer), Some(inner)) = (name.get(..at), name.get(at + 1..)) else { continue };
        if let Some(Value::Object(members)) = claims.get(outer) {
            found.extend(find(members, inner)?);
        }
    }
    if found.len() > 1 { Err(ClaimsProblem::Claim(name.to_owned())) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn user_of(claims: &Value, mapping: &ClaimsMapping, wanted: &[&str]) -> Result<User, ClaimsProblem> {
        let login = Name::parse("login").unwrap();
        let wanted = wanted.iter().copied();
        mapping.user(claims.as_object().unwrap(), wanted, &login, &"https://login.example".into())
    }

    fn texts(values: &[Box<str>]) -> String {
        values.join("|")
    }

    #[test]
    fn claims_become_a_user_by_what_the_issuer_is_said_to_mean() {
        let claims = json!({
            "sub": "alice", "groups": ["support", "staff", "support"], "scope": "orders:read  orders:write",
            "roles": "clerk", "realm_access": {"roles": ["a", "b"]}, "age": 42, "https://x.example/team": "blue",
            "vip": true, "nothing": null, "odd": [1, {"x": 1}, ["y"]], "object": {"a": 1}
        });
        let wanted =
            ["age", "vip", "https://x.example/team", "realm_access.roles", "nothing", "odd", "object"];
        let user = user_of(&claims, &ClaimsMapping::default(), &wanted).unwrap();
        assert_eq!(user.name(), "login/alice");
        assert_eq!(texts(&user.groups), "staff|support");
        assert_eq!(texts(&user.scopes), "orders:read|orders:write");
        assert_eq!(texts(&user.roles), "clerk");
        let claim = |name: &str| user.claims.get(name).map(|values| texts(values));
        assert_eq!(claim("age").as_deref(), Some("42"));
        assert_eq!(claim("vip").as_deref(), Some("true"));
        assert_eq!(claim("https://x.example/team").as_deref(), Some("blue"));
        assert_eq!(claim("realm_access.roles").as_deref(), Some("a|b"));
        assert_eq!(claim("nothing"), None);
        assert_eq!(claim("odd").as_deref(), Some("1"));
        assert_eq!(claim("object").as_deref(), Some(""));
        assert_eq!(claim("sub"), None, "only what is wanted");
        let mapping = ClaimsMapping {
            user: "realm.name".to_owned(),
            groups: vec!["realm_access.roles".to_owned(), "groups".to_owned()],
            ..ClaimsMapping::default()
        };
        let claims = json!({"realm": {"name": "bob/x"}, "realm_access": {"roles": ["a"]}, "groups": ["b"]});
        let user = user_of(&claims, &mapping, &[]).unwrap();
        assert_eq!((user.name().as_str(), texts(&user.groups).as_str()), ("login/bob/x", "a|b"));
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_not_read() {
        let nobody = |claims: Value| user_of(&claims, &ClaimsMapping::default(), &["a.b"]).unwrap_err();
        for claims in [
            json!({}),
            json!({"sub": ""}),
            json!({"sub": 7}),
            json!({"sub": ["alice"]}),
            json!({"sub": "a\nb"}),
            json!({"sub": "x".repeat(MAX_NAME_LEN + 1)}),
        ] {
            assert_eq!(nobody(claims), ClaimsProblem::User("sub".to_owned()));
        }
        let ambiguous = json!({"sub": "alice", "a.b": 1, "a": {"b": 2}});
        assert_eq!(nobody(ambiguous), ClaimsProblem::Claim("a.b".to_owned()));
        let many: Vec<usize> = (0..=MAX_VALUES).collect();
        assert_eq!(
            nobody(json!({"sub": "alice", "groups": many})),
            ClaimsProblem::Claim("groups".to_owned())
        );
        let words: Vec<String> = many.iter().map(usize::to_string).collect();
        assert_eq!(
            nobody(json!({"sub": "alice", "scope": words.join(" ")})),
            ClaimsProblem::Claim("scope".to_owned())
        );
        assert_eq!(
            nobody(json!({"sub": "alice", "groups": ["a\nb"]})),
            ClaimsProblem::Claim("groups".to_owned())
        );
        let long = "x".repeat(MAX_NAME_LEN + 1);
        assert_eq!(
            nobody(json!({"sub": "alice", "a.b": ["c", long]})),
            ClaimsProblem::Claim("a.b".to_owned())
        );
    }

    #[test]
    fn what_names_nothing_is_left_out_and_scopes_are_measured_word_by_word() {
        let long = "x".repeat(MAX_NAME_LEN + 1);
        let scopes: Vec<String> = (0..300).map(|number| format!("scope{number:03}")).collect();
        let claims = json!({
            "sub": "alice", "groups": ["", "staff", long], "roles": [long, "clerk", ""],
            "scope": format!("{} {long}", scopes.join(" "))
        });
        let user = user_of(&claims, &ClaimsMapping::default(), &[]).unwrap();
        assert_eq!((texts(&user.groups), texts(&user.roles)), ("staff".to_owned(), "clerk".to_owned()));
        assert_eq!(texts(&user.scopes), scopes.join("|"));
    }
}
