//! How decisions are shown.

use hauberk_identity::{IdentityKind, SpiffeId};
use hauberk_proto::agent::v1::{Decision, DecisionDetail, NoPolicies, OnBehalfOf, PolicyTrace, Verdict};
use owo_colors::OwoColorize as _;

use crate::commands::prospect;
use crate::output::printable;

/// The policies of one decision that are shown; the others are counted.
const SHOWN_POLICIES: usize = 5;

/// Who calls `node`, as short as can be: as [`short_name`] has it, but those of other trust domains than the node's,
/// which is ours, by their full SPIFFE ids. A partner's `web` is none of ours.
pub(crate) fn caller_name(caller: &str, node: &str) -> String {
    let is_foreign = |id: &SpiffeId| {
        // What leaves the mesh has no node: only our own are decided about then.
        SpiffeId::parse(node).is_ok_and(|node| !id.is_member_of(&node.trust_domain()))
    };
    match SpiffeId::parse(caller) {
        Ok(id) if is_foreign(&id) => id.to_string(),
        _ => short_name(caller),
    }
}

/// Who one of ours is, as short as can be: `web`, `gateway/edge`, a full SPIFFE id, `anonymous`.
pub(crate) fn short_name(spiffe_id: &str) -> String {
    if spiffe_id.is_empty() {
        return "anonymous".to_owned();
    }
    match SpiffeId::parse(spiffe_id) {
        Ok(id) => match id.kind() {
            IdentityKind::Node { name, .. } => name.to_owned(),
            IdentityKind::Gateway { name, .. } => format!("gateway/{name}"),
            _ => id.to_string(),
        },
        Err(_) => printable(spiffe_id),
    }
}

/// What is called: `orders:8080`; outside of the mesh `external/stripe:443`, or the host that no external service has.
pub(crate) fn target(decision: &Decision) -> String {
    match (decision.external.as_str(), decision.external_host.as_str()) {
        ("", "") => format!("{}:{}", short_name(&decision.node), decision.port),
        ("", host) => format!("{}:{}", printable(host), decision.port),
        (external, _) => format!("external/{}:{}", printable(external), decision.port),
    }
}

/// `ALLOWED`, `DENIED`, coloured.
pub(crate) fn verdict(verdict: Verdict) -> String {
    match verdict {
        Verdict::Allow => "ALLOWED".green().to_string(),
        Verdict::Deny => "DENIED".red().bold().to_string(),
        Verdict::AuditAllow => "WOULD DENY".yellow().to_string(),
        Verdict::Unspecified => "UNKNOWN".yellow().to_string(),
    }
}

/// `GET /orders/1`, `call shop.Orders/Get`, `connect`.
pub(crate) fn act(decision: &Decision) -> String {
    let path = printable(&decision.path);
    if path.is_empty() {
        printable(&decision.action)
    } else {
        format!("{} {path}", printable(&decision.action))
    }
}

/// What the caller was sent, where that is known: `403`, or of a gRPC call `PERMISSION_DENIED (7)`, since HTTP's status
/// is 200 whatever became of it.
pub(crate) fn answer(decision: &Decision) -> Option<String> {
    match (decision.grpc_status, decision.status) {
        (Some(status), _) => Some(format!("{} ({status})", grpc_name(status))),
        (None, 0) => None,
        (None, status) => Some(status.to_string()),
    }
}

/// The name that gRPC gives a status (grpc/doc/statuscodes.md).
fn grpc_name(status: u32) -> &'static str {
    match status {
        0 => "OK",
        1 => "CANCELLED",
        2 => "UNKNOWN",
        3 => "INVALID_ARGUMENT",
        4 => "DEADLINE_EXCEEDED",
        5 => "NOT_FOUND",
        6 => "ALREADY_EXISTS",
        7 => "PERMISSION_DENIED",
        8 => "RESOURCE_EXHAUSTED",
        9 => "FAILED_PRECONDITION",
        10 => "ABORTED",
        11 => "OUT_OF_RANGE",
        12 => "UNIMPLEMENTED",
        13 => "INTERNAL",
        14 => "UNAVAILABLE",
        15 => "DATA_LOSS",
        16 => "UNAUTHENTICATED",
        _ => "grpc-status",
    }
}

/// The user that it was made for, where policies read that: `login/alice, passed on by web`.
pub(crate) fn made_for(decision: &Decision) -> Option<String> {
    let OnBehalfOf { user, actors } = decision.facts.as_ref()?.on_behalf_of.as_ref()?;
    let Some(user) = user else { return Some("no user".to_owned()) };
    let actors: Vec<String> = actors.iter().map(|actor| caller_name(actor, &decision.node)).collect();
    let by = if actors.is_empty() { String::new() } else { format!(", passed on by {}", actors.join(", ")) };
    Some(format!("{}/{}{by}", printable(&user.issuer), printable(&user.id)))
}

/// What a reason's stable name means.
pub(crate) fn reason(decision: &Decision) -> String {
    let policies = decision.policies.iter().map(|name| printable(name)).collect::<Vec<_>>().join(", ");
    match decision.reason.as_str() {
        "permitted" => format!("policy {policies} permits it"),
        "forbidden" => format!("policy {policies} forbids it"),
        "forbidden_by_boundary" => format!("the mesh's boundary forbids it ({policies})"),
        "no_policy_matched" => "no policy permits it".to_owned(),
        "audit_default_allow" => "no policy permits it, but the port is in mode AUDIT".to_owned(),
        "evaluation_error" => format!("a policy could not be evaluated ({policies})"),
        "facts_missing" if policies.is_empty() => {
            "for whom the request is made was not known when it was asked".to_owned()
        }
        "facts_missing" => {
            format!("what policy {policies} reads was not known when it was asked")
        }
        "unreadable_query" => {
            format!(
                "the query can be read in more than one way, or has another spelling of a name that policy {policies} reads in it"
            )
        }
        "unreadable_header" => {
            format!("a header field that policy {policies} reads is no text, or is spelled in two ways")
        }
        "user_missing" => "the route is for users, and the request is made for none".to_owned(),
        "user_token_malformed" => "what the request has for a user's token is none".to_owned(),
        "user_token_too_large" => "the user's token is too large".to_owned(),
        "user_token_ambiguous" => "the request has more than one token of a user".to_owned(),
        "user_token_misplaced" => "the user's token does not stand where its issuer's do".to_owned(),
        "user_token_unknown_issuer" => "the user's token is of no JwtIssuer of the mesh".to_owned(),
        "user_token_issuer_not_taken" => "the port takes no users of that issuer".to_owned(),
        "user_token_unknown_key" => {
            "the user's token names no key that its issuer has, or none where several would fit".to_owned()
        }
        "user_token_algorithm" => {
            "the user's token is not signed with the one algorithm of its key".to_owned()
        }
        "user_token_header" => "the user's token is of another type, or demands extensions".to_owned(),
        "user_token_signature" => "the signature of the user's token is wrong".to_owned(),
        "user_token_audience" => "the user's token is for none of its issuer's audiences".to_owned(),
        "user_token_expired" => "the user's token has expired".to_owned(),
        "user_token_revoked" => "the instance that the token was minted for was revoked".to_owned(),
        "user_token_quarantined" => {
            "the token is of a node in quarantine, or of a workload for which that vouched".to_owned()
        }
        "user_token_not_yet_valid" => "the user's token is from the future".to_owned(),
        "user_token_claims" => {
            "the user's token does not say who the user is, or says it in two ways".to_owned()
        }
        "identity_malformed" => "what the caller's agent says of the user cannot be read".to_owned(),
        "identity_too_large" | "identity_too_many_hops" => {
            "the user has come through too many agents, or with too much".to_owned()
        }
        "identity_audience" => "the user was passed on to somebody else than this node".to_owned(),
        "identity_signer" => {
            "the user was passed on by somebody else than the caller, or by no node".to_owned()
        }
        "identity_spliced" => "somebody passed the user on to whom nobody had passed it".to_owned(),
        "identity_signature" => "who is said to have passed the user on has not signed that".to_owned(),
        "identity_certificate" => "nobody vouches for who passed the user on".to_owned(),
        "identity_expired" => "the certificate of who passed the user on has expired".to_owned(),
        "identity_revoked" => "who passed the user on was revoked, or is in quarantine".to_owned(),
        "identity_unavailable" => {
            "the node's agent could not tell its app of the user, for want of randomness or of a certificate"
                .to_owned()
        }
        "identity_time" => "the user was passed on in the future, or before it came".to_owned(),
        "identity_handle_forged" => {
            "what the app sent as hauberk-identity is no handle that this agent gave to it".to_owned()
        }
        "identity_handle_expired" => {
            "the handle that the app sent has ended, with the user's token or a certificate by which the user came"
                .to_owned()
        }
        "no_external_service" => "no ExternalService has this host".to_owned(),
        "address_not_allowed" => {
            "the host leads to no public address, and to none that its ExternalService allows".to_owned()
        }
        "not_tls" => "the app did not begin TLS on a port for it".to_owned(),
        "server_name_mismatch" => {
            "the app began TLS with another host than the one that it called".to_owned()
        }
        "encrypted_client_hello" => {
            "the app began TLS with a host inside that only the server can read (ECH), or that looks like it"
                .to_owned()
        }
        "no_such_port" if !decision.external.is_empty() => "the ExternalService has no such port".to_owned(),
        "no_such_port" => "the node has no such port".to_owned(),
        "obs_text" => "the query or the value of a header field holds bytes beyond ASCII".to_owned(),
        "ambiguous_path" => "the path can be read in more than one way".to_owned(),
        "undeclared_route" => "the path is no declared route, and the port denies those".to_owned(),
        "not_a_principal" => "such an identity never calls services".to_owned(),
        "trust_domain_not_federated" => {
            "every agent refuses it: the mesh has no keys of its trust domain".to_owned()
        }
        other => printable(other).replace('_', " "),
    }
}

/// The policies that were looked at, the nearest first, and the command that would allow it.
pub(crate) fn trace(detail: &DecisionDetail) -> String {
    let mut out = String::new();
    if detail.policies.is_empty() {
        out.push_str(&format!("{}\n", why_no_policies(detail)));
    } else {
        out.push_str("Policies looked at, the nearest first:\n");
    }
    for policy in detail.policies.iter().take(SHOWN_POLICIES) {
        out.push_str(&policy_line(policy));
    }
    let more = detail.policies.len().saturating_sub(SHOWN_POLICIES);
    if more > 0 {
        out.push_str(&format!("  and {more} more\n"));
    }
    out.push_str(&unmet_conditions(detail));
    out.push_str(&past_a_forbid(detail));
    if !detail.suggestion.is_empty() && detail.conditional.is_empty() {
        let suggestion = printable(&detail.suggestion);
        out.push_str(&format!("\nTo let exactly this through:\n  {}\n", suggestion.bold()));
    }
    if let Some(note) = no_command(detail) {
        out.push_str(&format!("\n{note}\n"));
    }
    if !detail.for_users.is_empty() {
        let names: Vec<_> = detail.for_users.iter().map(|name| printable(name)).collect();
        let verb = if names.len() == 1 { "permits" } else { "permit" };
        out.push_str(&format!(
            "\nWhat lacks is a user: {} {verb} this for some users alone. Give the user what is asked for, or change\n\
             the condition; `hauberk allow` would let it through for every user, and for none.\n",
            names.join(", ").bold()
        ));
    }
    out
}

/// Has the command that would let something through mean the control plane that was asked. `of_context`: what stands behind commands
/// that are told.
pub(crate) fn in_context(detail: &mut DecisionDetail, of_context: &str) {
    if !detail.suggestion.is_empty() {
        detail.suggestion.push_str(of_context);
    }
}

/// Which permits would let it through but for what they ask of the request or the caller, and the command that does
/// so whatever they ask for.
fn unmet_conditions(detail: &DecisionDetail) -> String {
    if detail.conditional.is_empty() {
        return String::new();
    }
    let mut names: Vec<_> = detail.conditional.iter().map(|name| printable(name)).collect();
    let more = names.len().saturating_sub(SHOWN_POLICIES);
    names.truncate(SHOWN_POLICIES);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let mut out =
        format!("\nThe request does not meet the condition of {}{more}:\n", names.join(", ").bold());
    let mut told: Vec<String> = Vec::new();
    let is_named = |policy: &&PolicyTrace| {
        detail.conditional.iter().take(SHOWN_POLICIES).any(|name| *name == policy.policy)
    };
    for policy in detail.policies.iter().filter(is_named) {
        let line = format!("  {}  {}\n", printable(&policy.policy), printable(&policy.difference));
        if !told.contains(&line) {
            told.push(line);
        }
    }
    told.iter().for_each(|line| out.push_str(line));
    out.push_str("Change the caller so that it does, or change the condition.");
    if !detail.suggestion.is_empty() {
        let suggestion = printable(&detail.suggestion);
        out.push_str(&format!(
            " This lets it through whatever the condition asks for:\n  {}",
            suggestion.bold()
        ));
    }
    out.push('\n');
    out
}

/// What to do about a denial by a forbid, which no permit lifts.
fn past_a_forbid(detail: &DecisionDetail) -> String {
    let Some(decision) = &detail.decision else { return String::new() };
    let names = decision.policies.iter().map(|name| printable(name)).collect::<Vec<_>>().join(", ");
    let whose = match decision.reason.as_str() {
        "forbidden" => "",
        "forbidden_by_boundary" => ", which takes the role boundary-admin",
        _ => return String::new(),
    };
    let except = "unless { principal == … }";
    format!(
        "\nNo permit lifts a forbid: change or delete {} if it should not hold, or except this caller in it \
         ({except}){whose}.\n",
        names.bold()
    )
}

/// Why no command is told, where that is for the method: `hauberk allow` writes methods in upper case.
fn no_command(detail: &DecisionDetail) -> Option<String> {
    let decision = detail.decision.as_ref()?;
    let method = &decision.facts.as_ref()?.method;
    let is_unmatched = ["no_policy_matched", "audit_default_allow"].contains(&decision.reason.as_str());
    let is_told = !detail.suggestion.is_empty() || !detail.for_users.is_empty();
    if !is_unmatched || is_told || *method == method.to_uppercase() {
        return None;
    }
    let note = prospect::method_note(method)?;
    Some(format!("No command lets exactly this through: {note}"))
}

/// Why no policies are told of a decision.
pub(crate) fn why_no_policies(detail: &DecisionDetail) -> &'static str {
    match detail.no_policies() {
        NoPolicies::Unspecified => "No policy concerns this target.",
        NoPolicies::NotAsked => "No policy was asked: it was decided before any could be.",
        NoPolicies::Shortened => {
            "Which policies were looked at cannot be told: the path, the query or the header fields were too long to be kept."
        }
        NoPolicies::Differs => {
            "Which policies were looked at cannot be told: asked again, they decide otherwise than was decided."
        }
        NoPolicies::RulesGone => "Nothing more is known of the rules that it was decided by.",
        NoPolicies::Busy => {
            "Which policies were looked at was not found out: too much that you have asked is under way; ask again."
        }
    }
}

fn policy_line(policy: &PolicyTrace) -> String {
    let matched = policy.principal_matched
        && policy.action_matched
        && policy.resource_matched
        && policy.conditions_held;
    let sign = if matched { "✓".green().to_string() } else { "✗".dimmed().to_string() };
    let audit = if policy.audit { ", audit only" } else { "" };
    let parts = [
        ("principal", policy.principal_matched),
        ("action", policy.action_matched),
        ("resource", policy.resource_matched),
        ("conditions", policy.conditions_held),
    ];
    let parts: Vec<String> = parts
        .iter()
        .map(|(part, held)| if *held { format!("{part} ✓") } else { format!("{part} ✗") })
        .collect();
    let mut line = format!(
        "  {sign} {} ({}{audit})  {}\n",
        printable(&policy.policy).bold(),
        printable(&policy.effect),
        parts.join("  ").dimmed()
    );
    if !policy.difference.is_empty() {
        line.push_str(&format!("      {}\n", printable(&policy.difference)));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_of_a_partner_are_told_from_ours_by_their_trust_domain() {
        let id = |of: &str, path: &str| format!("spiffe://{of}/mesh/shop/{path}");
        let orders = id("shop.local", "node/orders");
        for (path, short) in [("node/web", "web"), ("gateway/edge", "gateway/edge")] {
            assert_eq!(caller_name(&id("shop.local", path), &orders), short);
            assert_eq!(caller_name(&id("shop.local", path), ""), short);
            let theirs = id("partner.example", path);
            assert_eq!(caller_name(&theirs, &orders), theirs);
        }
        assert_eq!(caller_name("", &orders), "anonymous");
        let user = hauberk_proto::agent::v1::User {
            issuer: "login".to_owned(),
            id: "ada".to_owned(),
            ..Default::default()
        };
        let on_behalf_of = OnBehalfOf { user: Some(user), actors: vec![id("partner.example", "node/web")] };
        let facts = hauberk_proto::agent::v1::DecisionFacts {
            on_behalf_of: Some(on_behalf_of),
            ..Default::default()
        };
        let decision = Decision { node: orders, facts: Some(facts), ..Decision::default() };
        assert_eq!(
            made_for(&decision).unwrap(),
            "login/ada, passed on by spiffe://partner.example/mesh/shop/node/web"
        );
    }

    #[test]
    fn why_no_policies_are_told_is_said_as_it_is() {
        for (no_policies, told) in [
            (NoPolicies::Unspecified, "No policy concerns this target."),
            (NoPolicies::NotAsked, "No policy was asked"),
            (NoPolicies::Shortened, "too long to be kept"),
            (NoPolicies::Differs, "asked again, they decide otherwise"),
            (NoPolicies::RulesGone, "Nothing more is known"),
            (NoPolicies::Busy, "ask again"),
        ] {
            let detail = DecisionDetail { no_policies: no_policies.into(), ..DecisionDetail::default() };
            assert!(trace(&detail).contains(told), "{}", trace(&detail));
        }
    }

    #[test]
    fn for_a_method_in_lower_case_no_command_is_told_but_why() {
        let told = |reason: &str, method: &str, suggestion: &str| {
            let facts =
                hauberk_proto::agent::v1::DecisionFacts { method: method.to_owned(), ..Default::default() };
            let decision = Decision { reason: reason.to_owned(), facts: Some(facts), ..Decision::default() };
            let (decision, suggestion) = (Some(decision), suggestion.to_owned());
            trace(&DecisionDetail { decision, suggestion, ..DecisionDetail::default() })
        };
        let lower = told("no_policy_matched", "get", "");
        assert!(lower.contains("No command lets exactly this through: get is none of"), "{lower}");
        assert!(lower.contains("compared as they are sent; did you mean GET?"), "{lower}");
        for (reason, method, suggestion) in [
            ("no_policy_matched", "GET", ""),
            ("no_policy_matched", "", ""),
            ("forbidden", "get", ""),
            ("no_policy_matched", "get", "hauberk allow web orders"),
        ] {
            assert!(!told(reason, method, suggestion).contains("No command"), "{reason} {method}");
        }
    }

    #[test]
    fn where_users_decide_that_is_what_is_told_and_no_command() {
        let detail = DecisionDetail { for_users: vec!["support".to_owned()], ..DecisionDetail::default() };
        let told = anstream::adapter::strip_str(&trace(&detail)).to_string();
        assert!(told.contains("What lacks is a user: support permits this for some users alone."), "{told}");
        assert!(!told.contains("exactly this"), "{told}");
        let detail =
            DecisionDetail { suggestion: "hauberk allow web orders".to_owned(), ..DecisionDetail::default() };
        let told = anstream::adapter::strip_str(&trace(&detail)).to_string();
        assert!(told.contains("hauberk allow web orders") && !told.contains("a user"), "{told}");
    }

    #[test]
    fn a_command_that_is_told_means_the_context_that_was_named() {
        let told = |suggestion: &str, conditional: &[&str]| {
            let conditional = conditional.iter().map(ToString::to_string).collect();
            let suggestion = suggestion.to_owned();
            let mut detail = DecisionDetail { suggestion, conditional, ..DecisionDetail::default() };
            in_context(&mut detail, " --context prod");
            anstream::adapter::strip_str(&trace(&detail)).to_string()
        };
        for conditional in [&["tenant"][..], &[]] {
            let with = told("hauberk allow web orders", conditional);
            assert!(with.contains("\n  hauberk allow web orders --context prod\n"), "{with}");
            assert!(!told("", conditional).contains("--context"), "there is none to tell");
        }
    }

    #[test]
    fn a_command_that_passes_over_a_condition_is_said_to() {
        let note = |name: &str, difference: &str| PolicyTrace {
            policy: name.to_owned(),
            difference: difference.to_owned(),
            ..PolicyTrace::default()
        };
        let told = |suggestion: &str| {
            let detail = DecisionDetail {
                conditional: vec!["tenant".to_owned()],
                policies: vec![note("tenant", "context.host: expected \"a\""), note("other", "action")],
                suggestion: suggestion.to_owned(),
                ..DecisionDetail::default()
            };
            anstream::adapter::strip_str(&trace(&detail)).to_string()
        };
        let with = told("hauberk allow web orders");
        for part in [
            "does not meet the condition of tenant:\n  tenant  context.host: expected \"a\"\nChange the caller",
            "This lets it through whatever the condition asks for:\n  hauberk allow web orders\n",
        ] {
            assert!(with.contains(part), "{part}: {with}");
        }
        assert!(!with.contains("exactly this"), "{with}");
        assert!(!told("").contains("whatever the condition"), "there is none to tell");
    }

    #[test]
    fn of_many_permits_that_lack_a_condition_some_are_named_and_each_once() {
        let names: Vec<String> = (0..8).map(|number| format!("p{number}")).collect();
        let note = |name: &String| PolicyTrace {
            policy: name.clone(),
            difference: "context.host: no".to_owned(),
            ..PolicyTrace::default()
        };
        // Beyond those that are listed as looked at, and of one that stands there twice.
        let policies = names.iter().chain(names.first()).map(note).collect();
        let detail = DecisionDetail { conditional: names, policies, ..DecisionDetail::default() };
        let told = anstream::adapter::strip_str(&unmet_conditions(&detail)).to_string();
        assert!(
            told.contains("the condition of p0, p1, p2, p3, p4 and 3 more:\n  p0  context.host"),
            "{told}"
        );
        assert_eq!(told.matches("context.host: no").count(), SHOWN_POLICIES, "{told}");
    }

    #[test]
    fn what_to_do_about_a_forbid_is_told() {
        let told = |reason: &str| {
            let policies = vec!["only-charges".to_owned()];
            let decision = Decision { reason: reason.to_owned(), policies, ..Decision::default() };
            let detail = DecisionDetail { decision: Some(decision), ..DecisionDetail::default() };
            anstream::adapter::strip_str(&trace(&detail)).to_string()
        };
        let forbidden = told("forbidden");
        let line = "No permit lifts a forbid: change or delete only-charges if it should not hold, or except this \
                    caller in it (unless { principal == … }).";
        assert!(forbidden.lines().any(|told| told == line), "{forbidden}");
        let by_boundary = told("forbidden_by_boundary");
        assert!(
            by_boundary.contains("(unless { principal == … }), which takes the role boundary-admin.\n"),
            "{by_boundary}"
        );
        assert!(!told("no_policy_matched").contains("forbid"));
    }
}
