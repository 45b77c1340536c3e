//! Join tokens that would do much harm if somebody stole them.

use std::time::Duration;

use hauberk_identity::UnixMillis;
use hauberk_proto::admin::v1::Finding;

use super::{each, warning};
use crate::enrollment::{TokenView, Uses};

/// A token is for one agent and ten minutes unless somebody asks for more. So long it may live before that is told.
const LONG: Duration = Duration::from_secs(3_600);

/// Those that live for long, or that any number of agents may use, as long as anybody can join by them.
pub(super) fn loose(tokens: &[TokenView], now: UnixMillis) -> Vec<Finding> {
    let found = tokens.iter().filter_map(|token| of(token, now));
    each(found, "join tokens live long or have no limit", "`hauberk token list` lists all")
}

fn of(token: &TokenView, now: UnixMillis) -> Option<Finding> {
    let TokenView { id, record, .. } = token;
    let (created_at, expires_at) = (UnixMillis(record.created_at), UnixMillis(record.expires_at));
    let is_used_up = matches!(record.uses, Uses::Limited(uses) if record.used >= uses);
    if is_used_up || expires_at < now {
        return None;
    }
    let is_long = expires_at.since(created_at) > LONG;
    let is_unlimited = record.uses == Uses::Unlimited;
    let what = match (is_unlimited, is_long) {
        (true, _) => format!("lets in any number of agents until {expires_at}"),
        (false, true) => format!("is good until {expires_at}, longer than an hour from when it was made"),
        (false, false) => return None,
    };
    let whose = match &record.enrollment {
        None => format!("{}/{}", record.mesh, record.node),
        Some(of) => format!("{}/enrollment/{}", record.mesh, of.name),
    };
    Some(warning(
        format!("join token {id} of {whose} {what}"),
        format!(
            "whoever steals it becomes what it says: delete it once your agents have joined (`hauberk token delete {id}`), and give each \
             agent a token of its own, or let them join by evidence"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

    fn token(uses: Uses, used: u32, life: Duration, age: Duration) -> TokenView {
        let created_at = NOW.minus(age);
        let record = serde_json::from_value(serde_json::json!({
            "mesh": "shop",
            "node": "orders",
            "created_at": created_at.0,
            "expires_at": created_at.plus(life).0,
            "created_by": "ada",
            "uses": uses,
            "used": used,
        }));
        let record = record.unwrap();
        TokenView { id: "51318d570d44".to_owned(), record, used_by: Vec::new() }
    }

    #[test]
    fn those_are_told_that_a_thief_would_like() {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        let one = Uses::Limited(1);
        let is_told = |token: TokenView| !loose(&[token], NOW).is_empty();
        assert!(!is_told(token(one, 0, minutes(10), minutes(1))), "what is made by default");
        assert!(!is_told(token(one, 0, minutes(60), minutes(1))));
        assert!(is_told(token(one, 0, minutes(61), minutes(1))));
        assert!(is_told(token(one, 0, minutes(24 * 60), minutes(23 * 60))), "to its end");
        assert!(!is_told(token(one, 1, minutes(24 * 60), minutes(1))), "nobody joins by it any longer");
        assert!(is_told(token(Uses::Limited(5), 4, minutes(120), minutes(1))));
        assert!(is_told(token(Uses::Unlimited, 0, minutes(10), minutes(1))));
        assert!(!is_told(token(Uses::Unlimited, 0, minutes(10), minutes(11))), "it has expired");
        let [finding] = &loose(&[token(Uses::Unlimited, 9, minutes(10), minutes(1))], NOW)[..] else {
            panic!()
        };
        assert!(finding.summary.contains("51318d570d44") && finding.fix.contains("hauberk token delete"));
    }
}
