//! What a question about policies says of the caller's connection, the time and the request's head.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use hauberk_identity::{Name, SpiffeId, UnixMillis};
use hauberk_policy::{
    Caller, Engine, Gathered, Given, HeaderLines, Moment, OnBehalfOf, Origin, Peer, Tls, canonical_host,
    node_named,
};
use hauberk_proto::admin::v1::CheckRequest;
use hauberk_proto::agent::v1 as agent;
use http::HeaderName;
use serde_json::{Map, Value};
use tonic::Status;

use super::mesh::Mesh;
use crate::resources::{JwtIssuer, Kind, did_you_mean};
use crate::rpc::status;

/// The groups of key exchanges that agents take, as handshakes name them.
const TLS_GROUPS: [&str; 4] = ["X25519MLKEM768", "X25519", "secp256r1", "secp384r1"];

/// What does not depend on what is asked for.
pub(super) struct Circumstances {
    /// What the question says, completed by what holds between agents of this release: who proves nothing shows no certificate, and
    /// may speak no TLS.
    pub(super) peer: Peer,
    pub(super) moment: Moment,
    /// What it says and nothing more.
    given: Given,
}

impl Circumstances {
    /// Reads what the question says.
    pub(super) fn of(request: &CheckRequest, caller: &Caller, now: UnixMillis) -> Result<Self, Status> {
        let CheckRequest { address, at, certificate_age_s, tls_group, headers, .. } = request;
        if let Some(wrong) =
            headers.iter().find(|lines| HeaderName::from_bytes(lines.name.as_bytes()).is_err())
        {
            let message = format!("{:?} is no name of a header field", wrong.name);
            return Err(status::bad_field("headers", message));
        }
        check_headers(headers)?;
        check_tls_group(tls_group)?;
        let address: Option<IpAddr> = match address.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| status::bad_field("address", "this is no IP address"))?),
        };
        let at = at.as_ref().map(|at| {
            let seconds = u64::try_from(at.seconds).unwrap_or_default();
            UnixMillis::from_secs(seconds)
                .plus(Duration::from_nanos(u64::try_from(at.nanos).unwrap_or_default()))
        });
        let certificate_age = certificate_age_s.map(Duration::from_secs);
        let time = at.unwrap_or(now);
        let proves = *caller != Caller::Anonymous;
        let certificate_since = proves.then(|| time.minus(certificate_age.unwrap_or_default()));
        let tls = |group: &str| Tls { version: "TLSv1.3".into(), group: group.into() };
        let told = Some(tls_group.as_str()).filter(|group| !group.is_empty()).map(tls);
        let assumed = told.clone().or_else(|| proves.then(|| tls("X25519MLKEM768")));
        Ok(Self {
            peer: Peer::new(address, assumed),
            moment: Moment { time, certificate_since },
            given: Given { address, tls: told, time: at, certificate_age, ..Given::default() },
        })
    }

    /// What the question says, of what a node's agents would gather from the request.
    pub(super) fn given(&self, request: &CheckRequest, gathered: &Gathered, untold: &[Box<str>]) -> Given {
        let is_told = |lines: &&HeaderLines| {
            let has_lines = lines.values.as_ref().is_none_or(|values| !values.is_empty());
            has_lines || request.headers.iter().any(|told| told.name.eq_ignore_ascii_case(&lines.name))
        };
        Given {
            host: gathered.host().map(str::to_owned),
            headers: gathered.headers().iter().filter(is_told).cloned().collect(),
            made_for: Some(gathered.on_behalf_of().clone())
                .filter(|_| request.without_user || !request.user.is_empty()),
            untold_claims: untold.to_vec(),
            ..self.given.clone()
        }
    }
}

/// What the node's agents would gather of such a request.
pub(super) fn gathered(request: &CheckRequest, engine: &Engine, port: u16) -> Gathered {
    let CheckRequest { host, headers, .. } = request;
    // Whoever asks for an address of IPv6 writes it in brackets (RFC 3986 §3.2.2).
    let bracketed = host.parse::<Ipv6Addr>().is_ok().then(|| format!("[{host}]"));
    let host = bracketed.as_ref().unwrap_or(host);
    let lines = headers.iter().flat_map(|lines| {
        let unreadable = lines.unreadable.then_some(&b"\xff"[..]);
        let values = lines.values.iter().map(String::as_bytes).chain(unreadable);
        values.map(|value| (lines.name.as_str(), value))
    });
    let gathered = engine.wanted(port).map(|wanted| wanted.gather(host, lines)).unwrap_or_default();
    // A host that was not told is not known: what is called has other names too.
    match host.as_str() {
        "" => Gathered::recorded(None, gathered.headers().to_vec()),
        _ => gathered,
    }
}

/// Refuses to say of a header field that it is sent and that it is not.
fn check_headers(headers: &[agent::HeaderLines]) -> Result<(), Status> {
    let is_sent = |lines: &agent::HeaderLines| !lines.values.is_empty() || lines.unreadable;
    for not_sent in headers.iter().filter(|lines| !is_sent(lines)) {
        let is_same = |lines: &&agent::HeaderLines| lines.name.eq_ignore_ascii_case(&not_sent.name);
        if headers.iter().filter(|lines| is_sent(lines)).any(|lines| is_same(&lines)) {
            let message = format!("{:?} is said to be sent, and not to be sent", not_sent.name);
            return Err(status::bad_field("headers", message));
        }
    }
    Ok(())
}

/// Refuses another spelling of a group: policies compare its name as handshakes tell it.
fn check_tls_group(told: &str) -> Result<(), Status> {
    let meant = TLS_GROUPS.iter().find(|group| group.eq_ignore_ascii_case(told));
    match meant {
        Some(group) if *group != told => {
            Err(status::bad_field("tlsGroup", format!("there is no group {told:?}: write {group}")))
        }
        _ => Ok(()),
    }
}

/// Refuses a host that an external service does not have: no request to it names another.
pub(super) fn check_host(told: &str, external: &Name, mesh: &Mesh<'_>) -> Result<(), Status> {
    let found = mesh.resources.externals().find(|(name, _)| *name == external);
    let Some((_, service)) = found.filter(|_| !told.is_empty()) else { return Ok(()) };
    let host = canonical_host(told);
    // As agents find the service by it: addresses in their one spelling, those of IPv6 without brackets.
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(&host);
    let host = bare.parse::<IpAddr>().map_or(bare.to_owned(), |address| address.to_canonical().to_string());
    if service.hosts().contains(&host) {
        return Ok(());
    }
    let hosts = service.hosts().join(", ");
    Err(status::bad_field("host", format!("external/{external} has no host {told:?}: it has {hosts}")))
}

/// Whom the request says that it is made for, as agents would read such a token; with the claims of it that were not
/// told, and that it has whatever else is so, or may well have.
pub(super) fn on_behalf_of(
    request: &CheckRequest,
    mesh: &Mesh<'_>,
    engine: &Engine,
) -> Result<(OnBehalfOf, Vec<Box<str>>), Status> {
    let CheckRequest { user, claims, actors, without_user, .. } = request;
    if user.is_empty() {
        let beside = [("claims", !claims.is_empty()), ("actors", !actors.is_empty())];
        return match beside.into_iter().find(|(_, is_told)| *is_told) {
            Some((field, _)) => Err(status::bad_field(field, "of which user? Name one: alice@ISSUER")),
            None => Ok((OnBehalfOf::Nobody, Vec::new())),
        };
    }
    if *without_user {
        return Err(status::bad_field("withoutUser", "a user is named, and none is said to be there"));
    }
    let wrong = |message: String| status::bad_field("user", message);
    let (id, issuer) = user.rsplit_once('@').ok_or_else(|| wrong("write alice@ISSUER".to_owned()))?;
    let found = mesh.resources.issuers().find(|(name, ..)| name.as_str() == issuer);
    let (name, found, _) = found.ok_or_else(|| {
        let known = mesh.resources.of_kind(Kind::JwtIssuer).keys().map(Name::as_str);
        let hint = did_you_mean(issuer, known).map(|hint| format!("; {hint}")).unwrap_or_default();
        wrong(format!("mesh {} has no JwtIssuer {issuer:?}{hint}", mesh.name))
    })?;
    let mut claimed: Map<String, Value> = match claims.as_str() {
        "" => Map::new(),
        text => serde_json::from_str(text).map_err(|error| status::bad_field("claims", error))?,
    };
    let user_claim = found.claims().user.as_str();
    for (name, value, whose) in [
        (user_claim, id, "names the user, who is"),
        ("iss", found.issuer(), "names the issuer, which calls itself"),
    ] {
        let told = claimed.entry(name.to_owned()).or_insert_with(|| Value::String(value.to_owned()));
        if *told != *value {
            let message = format!("the claim {name:?} {whose} {value:?}, and is said to be {told}");
            return Err(status::bad_field("claims", message));
        }
    }
    check_audience(&claimed, found)?;
    let is_untold = |name: &&str| !claimed.contains_key(*name);
    let audience = if found.audience_is_client() { "client_id" } else { "aud" };
    let untold = ["exp", "iat", "nbf", "sub", "aud", audience].into_iter().filter(is_untold);
    let untold = untold.map(Box::from).collect();
    let user = found
        .claims()
        .user(&claimed, engine.claims_read(), name, &Arc::from(found.issuer()))
        .map_err(|error| status::bad_field("claims", error))?;
    let actors = actors.iter().map(|actor| node_named(mesh.trust_domain, mesh.name, actor));
    let actors: Result<Vec<SpiffeId>, _> = actors.collect();
    let actors = actors.map_err(|bad| status::bad_field("actors", bad.message))?;
    Ok((OnBehalfOf::User(Arc::new(Origin { user, actors })), untold))
}

/// Refuses a told audience with which no token of the issuer's is good.
fn check_audience(claimed: &Map<String, Value>, issuer: &JwtIssuer) -> Result<(), Status> {
    let by_client = issuer.audience_is_client().then_some("client_id");
    for (name, told) in by_client.into_iter().chain(["aud"]).filter_map(|name| claimed.get_key_value(name)) {
        let is_meant = |told: &Value| issuer.audiences().iter().any(|own| told == own.as_str());
        let is_good = match told {
            Value::Array(all) if name == "aud" => all.iter().any(is_meant),
            one => is_meant(one),
        };
        if !is_good {
            let audiences = issuer.audiences().join(", ");
            let message = format!(
                "a token whose {name:?} is {told} is refused: its issuer's must have one of {audiences}"
            );
            return Err(status::bad_field("claims", message));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
