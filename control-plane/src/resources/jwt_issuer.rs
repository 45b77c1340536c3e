//! An issuer of users' tokens, as it is accepted.

use std::sync::Arc;

use aws_lc_rs::digest;
use hauberk_policy::{ClaimsMapping, is_listed_header};
use hauberk_proto::mesh::v1 as wire;
use hauberk_tls::jwt::{JwtBundleError, JwtKeySet};
use prost::Message;

use super::choice;
use super::passed_over::passed_over;
use super::problem::Problems;
use super::web_endpoint::WebEndpoint;

/// The most audiences of one issuer, and claims of one sort.
const MOST_AUDIENCES: usize = 32;
const MOST_CLAIMS: usize = 8;
/// The most claims, or groups, that an issuer declares.
const MOST_DECLARED: usize = 1_000;
/// The longest of any of its texts, in bytes.
const LONGEST: usize = 1_024;

/// An issuer of users' tokens: who it says it is, and by what its tokens are verified and read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtIssuer {
    issuer: String,
    audiences: Vec<String>,
    initial: Option<Arc<JwtKeySet>>,
    passed_over: Vec<String>,
    endpoint: Option<KeyEndpoint>,
    claims: ClaimsMapping,
    token_header: Option<String>,
    audience_is_client: bool,
    declared: Declared,
    digest: [u8; 32],
}

/// What an issuer's tokens may say, in order; where there is none, that is not told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Declared {
    /// Claims, those that are mapped aside.
    pub claims: Vec<String>,
    /// Groups of its users.
    pub groups: Vec<String>,
}

/// Where an issuer's keys come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyEndpoint {
    /// They are served here.
    Keys(WebEndpoint),
    /// Here is served where they are (OpenID Connect Discovery 1.0 §4).
    Configuration(WebEndpoint),
}

impl JwtIssuer {
    /// Reads a spec, and reports everything that is wrong with it.
    pub(crate) fn parse(spec: &wire::JwtIssuerSpec, problems: &mut Problems) -> Option<Self> {
        let before = problems.count();
        let wire::JwtIssuerSpec {
            issuer,
            audiences,
            jwks,
            jwks_url,
            allow_private_addresses,
            claims,
            token_header,
            description,
            declares,
            audience_claim,
        } = spec;
        choice::description(problems, description.as_deref());
        check_text(problems, "spec.issuer", issuer, "write what its tokens have as `iss`");
        if audiences.is_empty() {
            let help = "write audiences: and what its tokens for you have as `aud`, or as the audienceClaim; one for somebody else must \
                        not do";
            problems.invalid_but("spec.audiences", "it is missing", help);
        }
        let audiences = texts(problems, "spec.audiences", audiences, MOST_AUDIENCES);
        let (initial, passed_over) = match jwks.as_str() {
            "" => (None, Vec::new()),
            text => match JwtKeySet::of_issuer(text.as_bytes()) {
                Ok((keys, errors)) => {
                    let is_ambiguous = |error: &&JwtBundleError| matches!(error, JwtBundleError::SameId(_));
                    // What is written down can be written otherwise: here, other than of what is fetched, nothing is
                    // taken back.
                    match errors.first().filter(|_| keys.is_empty()) {
                        Some(JwtBundleError::NoneForTokens(count)) => problems.invalid_but(
                            "spec.jwks",
                            JwtBundleError::NoneForTokens(*count),
                            "keys of RSA, of P-256, P-384 and P-521, and of Ed25519 are known; those of `use` enc are not for this",
                        ),
                        Some(first) => {
                            problems.invalid("spec.jwks", format!("none of its keys is of use: {first}"));
                        }
                        None => {
                            if let Some(ambiguous) = errors.iter().find(is_ambiguous) {
                                problems.invalid("spec.jwks", ambiguous);
                            }
                        }
                    }
                    (Some(Arc::new(keys)), passed_over(&errors))
                }
                Err(error) => {
                    problems.invalid("spec.jwks", error);
                    (None, Vec::new())
                }
            },
        };
        let allows_private = allow_private_addresses.unwrap_or_default();
        let endpoint = match jwks_url.as_str() {
            "" if jwks.is_empty() => configuration_of(problems, issuer, allows_private),
            "" => None,
            url => WebEndpoint::parse(url, allows_private)
                .map_err(|reason| problems.invalid("spec.jwksUrl", reason))
                .map(KeyEndpoint::Keys)
                .ok(),
        };
        let claims = claims.as_ref().map(|claims| read_claims(problems, claims)).unwrap_or_default();
        let token_header = token_header.as_deref().filter(|name| *name != "authorization").map(str::to_owned);
        if let Some(name) = &token_header
            && let Err((message, help)) = is_listed_header(name)
        {
            problems.invalid_but("spec.tokenHeader", message, help);
        }
        let audience_is_client = match audience_claim.as_deref() {
            None | Some("aud") => false,
            Some("client_id") => true,
            Some(other) => {
                let message = format!("{other:?} does not say whom a token is for: aud and client_id do");
                let help = "ask other claims by policies; whoever may choose the value of a claim could make tokens for you";
                problems.invalid_but("spec.audienceClaim", message, help);
                false
            }
        };
        let declared =
            declares.as_ref().map(|declares| read_declared(problems, declares)).unwrap_or_default();
        let digest = digest_of_source(spec);
        let issuer = issuer.clone();
        let read = Self {
            issuer,
            audiences,
            initial,
            passed_over,
            endpoint,
            claims,
            token_header,
            audience_is_client,
            declared,
            digest,
        };
        (problems.count() == before).then_some(read)
    }

    /// What it calls itself.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Of which a token must name one, in order.
    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// The keys that are written in the resource.
    pub fn initial(&self) -> Option<&Arc<JwtKeySet>> {
        self.initial.as_ref()
    }

    /// Which of those are of no use, and why.
    pub fn passed_over(&self) -> &[String] {
        &self.passed_over
    }

    /// Where later ones come from; `None`: from nowhere.
    pub fn endpoint(&self) -> Option<&KeyEndpoint> {
        self.endpoint.as_ref()
    }

    /// Which claims say what.
    pub fn claims(&self) -> &ClaimsMapping {
        &self.claims
    }

    /// The header field that holds a token alone; `None`: `Authorization: Bearer`.
    pub fn token_header(&self) -> Option<&str> {
        self.token_header.as_deref()
    }

    /// The audiences are held against `client_id` instead of `aud`.
    pub fn audience_is_client(&self) -> bool {
        self.audience_is_client
    }

    /// What its tokens may say.
    pub fn declared(&self) -> &Declared {
        &self.declared
    }

    /// SHA-256 of where its keys come from: what was fetched for another source no longer counts.
    pub(crate) fn digest(&self) -> [u8; 32] {
        self.digest
    }
}

/// SHA-256 of what decides where keys come from, and whether they are believed. How tokens are read, for whom they are, and what people
/// are told of the issuer are of no matter to its keys: who changes those must not be without any while its server is away.
fn digest_of_source(spec: &wire::JwtIssuerSpec) -> [u8; 32] {
    let wire::JwtIssuerSpec {
        issuer,
        jwks,
        jwks_url,
        allow_private_addresses,
        audiences: _,
        claims: _,
        token_header: _,
        description: _,
        declares: _,
        audience_claim: _,
    } = spec;
    let source = wire::JwtIssuerSpec {
        issuer: issuer.clone(),
        jwks: jwks.clone(),
        jwks_url: jwks_url.clone(),
        allow_private_addresses: allow_private_addresses.filter(|allows| *allows),
        ..wire::JwtIssuerSpec::default()
    };
    let mut digest = [0; 32];
    digest.copy_from_slice(digest::digest(&digest::SHA256, &source.encode_to_vec()).as_ref());
    digest
}

/// Where an issuer says where its keys are (OpenID Connect Discovery 1.0 §4.1).
fn configuration_of(problems: &mut Problems, issuer: &str, allows_private: bool) -> Option<KeyEndpoint> {
    let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
    match WebEndpoint::of_issuer(&url, allows_private) {
        Ok(endpoint) => Some(KeyEndpoint::Configuration(endpoint)),
        // What is missing is told already.
        Err(_) if issuer.is_empty() => None,
        Err(reason) => {
            let message = format!(
                "it says nowhere what its tokens are verified by, and its issuer cannot be asked: {reason}"
            );
            problems.invalid_but("spec", message, "write jwks: or jwksUrl:, or both");
            None
        }
    }
}

fn read_claims(problems: &mut Problems, claims: &wire::UserClaims) -> ClaimsMapping {
    let wire::UserClaims { user, groups, scopes, roles } = claims;
    let default = ClaimsMapping::default();
    let mut names = |field: &str, named: &[String], default: Vec<String>| {
        let named = texts(problems, &format!("spec.claims.{field}"), named, MOST_CLAIMS);
        if named.is_empty() { default } else { named }
    };
    let (groups, scopes, roles) = (
        names("groups", groups, default.groups),
        names("scopes", scopes, default.scopes),
        names("roles", roles, default.roles),
    );
    if let Some(user) = user {
        check_text(problems, "spec.claims.user", user, "write the name of a claim, or leave it out");
    }
    ClaimsMapping { user: user.clone().unwrap_or(default.user), groups, scopes, roles }
}

fn read_declared(problems: &mut Problems, declares: &wire::DeclaredUsers) -> Declared {
    let wire::DeclaredUsers { claims, groups } = declares;
    Declared {
        claims: texts(problems, "spec.declares.claims", claims, MOST_DECLARED),
        groups: texts(problems, "spec.declares.groups", groups, MOST_DECLARED),
    }
}

/// Texts, each once, in order.
fn texts(problems: &mut Problems, field: &str, named: &[String], most: usize) -> Vec<String> {
    if named.len() > most {
        problems.invalid(field, format!("{} are too many: at most {most}", named.len()));
    }
    let mut read: Vec<String> = Vec::new();
    for (index, text) in named.iter().enumerate().take(most) {
        let field = format!("{field}[{index}]");
        check_text(problems, &field, text, "leave it out");
        if read.contains(text) {
            problems.invalid(field, format!("{text:?} stands here twice"));
        } else {
            read.push(text.clone());
        }
    }
    read.sort();
    read
}

fn check_text(problems: &mut Problems, field: &str, text: &str, help: &str) {
    if text.is_empty() {
        problems.invalid_but(field, "it is empty", help);
    } else if text.len() > LONGEST || text.chars().any(char::is_control) {
        problems.invalid(field, format!("it is longer than {LONGEST} bytes, or holds a control character"));
    }
}

#[cfg(test)]
mod tests;
