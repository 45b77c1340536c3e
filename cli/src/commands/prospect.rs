//! How it is shown what would be decided where something is left open.

use hauberk_proto::admin::v1::{CheckResponse, Clause, Outlook, Prospect};
use hauberk_proto::turned_away::OfCaller;
use owo_colors::OwoColorize as _;

use crate::commands::decision::{caller_name, short_name};
use crate::nearest::nearest;
use crate::output::printable;

/// `yes`, `part`, `conditional`, `never`.
pub(crate) fn word(outlook: Outlook) -> &'static str {
    match outlook {
        Outlook::Always => "always",
        Outlook::Part => "part",
        Outlook::Conditional => "conditional",
        Outlook::Never => "never",
        Outlook::Unspecified => "unknown",
    }
}

/// Who calls: `web`, or `others of spiffe://partner.example/`.
pub(crate) fn caller(prospect: &Prospect) -> String {
    if prospect.stands_for_others {
        return format!("others: {}*", printable(&prospect.caller));
    }
    caller_name(&prospect.caller, &prospect.node)
}

/// Methods that everybody knows, and writes in upper case (RFC 9110 §9.1, RFC 5789).
const METHODS: [&str; 9] = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT"];

/// What is told to who asks about a method that looks like a slip of the hand; policies compare them as they are sent.
pub(crate) fn method_note(method: &str) -> Option<String> {
    let is_word = ["", "upgrade", "call", "connect"].contains(&method);
    if is_word || METHODS.contains(&method) {
        return None;
    }
    let hint = nearest(method, METHODS).map(|known| format!("; did you mean {known}?"));
    let said = "is none of HTTP's own methods, and methods are compared as they are sent";
    Some(format!("{} {said}{}", printable(method), hint.unwrap_or_default()))
}

/// What is called: `orders:8080`.
pub(crate) fn target(prospect: &Prospect) -> String {
    match prospect.external.as_str() {
        "" => format!("{}:{}", short_name(&prospect.node), prospect.port),
        external => format!("external/{}:{}", printable(external), prospect.port),
    }
}

/// What is done: `GET`, of other methods `PROPFIND` or `other`.
pub(crate) fn action(prospect: &Prospect) -> String {
    printable(if prospect.method.is_empty() { &prospect.action } else { &prospect.method })
}

/// Which route it is done to, or `-`.
pub(crate) fn route(prospect: &Prospect) -> String {
    if prospect.route.is_empty() { "-".to_owned() } else { printable(&prospect.route) }
}

/// Conditions that rows of a table share, told once below it.
#[derive(Debug, Default)]
pub(crate) struct Notes(Vec<String>);

impl Notes {
    /// Who says so; where something is open, the number of the note that tells the conditions.
    pub(crate) fn grounds(&mut self, prospect: &Prospect) -> String {
        if matches!(prospect.outlook(), Outlook::Always | Outlook::Never) {
            return settled(prospect);
        }
        let mut lines: Vec<String> = prospect.permits.iter().map(clause).collect();
        if is_by_default(prospect) {
            lines.push("by default, since the port is in mode AUDIT".to_owned());
        }
        let denials = prospect.forbids.iter().map(clause);
        let denials = denials.chain(prospect.denied_where.iter().map(|text| printable(text)));
        lines.extend(denials.map(|text| format!("unless {text}")));
        let note = lines.join("\n");
        let known = self.0.iter().position(|own| *own == note).unwrap_or_else(|| {
            self.0.push(note);
            self.0.len() - 1
        });
        format!("[{}]", known + 1)
    }

    /// The notes, to stand below the table.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        for (index, note) in self.0.iter().enumerate() {
            let number = format!("[{}]", index + 1);
            for (place, line) in note.lines().enumerate() {
                let margin = if place == 0 { number.clone() } else { " ".repeat(number.len()) };
                out.push_str(&format!("\n{margin} {line}"));
            }
        }
        if out.is_empty() { out } else { format!("{out}\n") }
    }
}

/// The conditions of one answer, in several lines.
pub(crate) fn conditions(prospect: &Prospect) -> String {
    let mut out = String::new();
    let mut block = |title: String, lines: Vec<String>| {
        if !lines.is_empty() {
            out.push_str(&format!("{title}\n"));
            lines.iter().for_each(|line| out.push_str(&format!("  {line}\n")));
        }
    };
    let lines = |clauses: &[Clause]| clauses.iter().map(clause).collect::<Vec<_>>();
    let mut permits = lines(&prospect.permits);
    if is_by_default(prospect) {
        permits.push("always, as the port is in mode AUDIT".to_owned());
    }
    block("permitted where".green().to_string(), permits);
    let mut denials = lines(&prospect.forbids);
    denials.extend(prospect.denied_where.iter().map(|text| printable(text)));
    block("but denied where".red().to_string(), denials);
    out
}

/// What holds for all that a request is.
pub(crate) fn overall(answer: &CheckResponse) -> Outlook {
    let all = |wanted: Outlook| answer.prospects.iter().all(|prospect| prospect.outlook() == wanted);
    if answer.prospects.is_empty() || answer.prospects.iter().any(|one| one.outlook() == Outlook::Never) {
        Outlook::Never
    } else if all(Outlook::Always) {
        Outlook::Always
    } else {
        Outlook::Conditional
    }
}

/// The conditions of all that is open.
pub(crate) fn open_conditions(answer: &CheckResponse) -> String {
    let is_open = |outlook| !matches!(outlook, Outlook::Always | Outlook::Never);
    answer.prospects.iter().filter(|one| is_open(one.outlook())).map(conditions).collect()
}

fn is_by_default(prospect: &Prospect) -> bool {
    prospect.reason == "audit_default_allow"
}

/// Why it always or never is.
pub(crate) fn settled(prospect: &Prospect) -> String {
    if let Some(why) = OfCaller::named(&prospect.reason) {
        return turned_away(why).to_owned();
    }
    let policies = prospect.policies.iter().map(|name| printable(name)).collect::<Vec<_>>().join(", ");
    match prospect.reason.as_str() {
        "permitted" => policies,
        "forbidden" => format!("{policies} forbids it"),
        "forbidden_by_boundary" => format!("{policies} forbids it"),
        "no_policy_matched" => "no policy permits it".to_owned(),
        "audit_default_allow" => "by default, since the port is in mode AUDIT".to_owned(),
        "undeclared_route" => "the port denies what is no declared route".to_owned(),
        "user_missing" => "the route is for users, and it is made for none".to_owned(),
        "user_token_issuer_not_taken" => "the port takes no users of that issuer".to_owned(),
        "not_a_principal" => "such an identity never calls services".to_owned(),
        "identity_revoked" => "who passed the user on is in quarantine".to_owned(),
        "user_token_unknown_key" => {
            "every agent refuses the user: the mesh has no keys of the issuer".to_owned()
        }
        other => printable(other).replace('_', " "),
    }
}

/// Why somebody is turned away whatever it asks for.
fn turned_away(why: OfCaller) -> &'static str {
    match why {
        OfCaller::Anonymous => "no listener takes callers without a certificate",
        OfCaller::Unfederated => "every agent refuses it: the mesh has no keys of its trust domain",
        OfCaller::Quarantined => "every agent refuses it: its node is in quarantine",
        OfCaller::CalledQuarantined => "what is called is in quarantine",
    }
}

/// `policy: condition and condition`
fn clause(clause: &Clause) -> String {
    let conditions = clause.conditions.iter().map(|text| printable(text)).collect::<Vec<_>>();
    let held = clause.held.iter().map(|text| printable(text)).collect::<Vec<_>>();
    let held = if held.is_empty() { String::new() } else { format!("  ({})", held.join(", ")) };
    match conditions.as_slice() {
        [] => printable(&clause.policy),
        conditions => format!("{}: {}{held}", printable(&clause.policy), conditions.join(" && ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_hand_in_a_method_is_noted() {
        for told in ["", "upgrade", "GET", "DELETE", "CONNECT"] {
            assert_eq!(method_note(told), None, "{told}");
        }
        for (written, meant) in
            [("post", "POST"), ("Get", "GET"), ("POTS", "POST"), ("DELTE", "DELETE"), ("PUTT", "PUT")]
        {
            let note = method_note(written).unwrap();
            assert!(note.ends_with(&format!("; did you mean {meant}?")), "{note}");
        }
        assert!(method_note("PROPFIND").unwrap().ends_with("compared as they are sent"));
    }
}
