//! The tokens of a watch. One that cannot be had holds nothing else up: the former is kept, and asked for again.

use std::collections::BTreeMap;
use std::time::Duration;

use hauberk_identity::UnixMillis;
use hauberk_proto::workload::JwtsvidRequest;
use hauberk_tls::jwt::{JwtKeySet, unverified_key_id};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::super::client::{ApiError, Client, expiry, judge, marked, nothing};
use super::{LOOK, say};
use crate::clock::Clock;
use crate::random::Backoff;

/// Before what has failed is asked for again, the first time and at the most.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const MOST_PAUSE: Duration = Duration::from_secs(30);

/// What there is of them, by the names of their files.
#[derive(Default)]
pub(super) struct Tokens {
    held: BTreeMap<String, Token>,
    /// Whom they name.
    id: String,
    /// Those that were asked for in vain the last time: each waits for itself.
    failing: BTreeMap<String, Failing>,
}

struct Failing {
    backoff: Backoff,
    /// It is not asked for before.
    rest_until: Instant,
    /// What was said of it.
    said: String,
}

struct Token {
    text: Zeroizing<String>,
    renew_at: UnixMillis,
}

impl Tokens {
    /// The token of this file.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.held.get(name).map(|token| token.text.as_str())
    }

    /// Those whose key is none of these are due.
    pub(super) fn replace_unverifiable(&mut self, keys: &JwtKeySet) {
        for (name, token) in &mut self.held {
            let key_id = unverified_key_id(&token.text);
            if key_id.is_ok_and(|key_id| keys.key(&key_id).is_none()) {
                token.renew_at = UnixMillis(0);
                if let Some(failing) = self.failing.get_mut(name) {
                    failing.rest_until = Instant::now();
                }
            }
        }
    }

    /// Asks for each that is due: at half of what it had left. What cannot be had is said, and the former stays.
    pub(super) async fn renew(&mut self, wanted: &BTreeMap<String, String>, id: &str, client: &mut Client) {
        if self.id != id {
            // They name somebody else.
            self.held.clear();
            self.failing.clear();
            id.clone_into(&mut self.id);
        }
        for (name, audience) in wanted {
            if self.is_due(name) {
                match ask(id, audience, client).await {
                    Ok(token) => {
                        self.held.insert(name.clone(), token);
                        self.failing.remove(name);
                    }
                    Err(error) => self.fails(name, &error.to_string()),
                }
            }
        }
    }

    fn fails(&mut self, name: &str, problem: &str) {
        let failing = self.failing.entry(name.to_owned()).or_insert_with(|| Failing {
            backoff: Backoff::new(FIRST_PAUSE, MOST_PAUSE),
            rest_until: Instant::now(),
            said: String::new(),
        });
        failing.rest_until = Instant::now() + failing.backoff.step();
        if failing.said != problem {
            say(&format!(
                "--jwt: {name}: {problem}; the former token stays, if there is one, and it is tried again"
            ));
            problem.clone_into(&mut failing.said);
        }
    }

    /// When to ask again, from now.
    pub(super) fn next_look(&self, wanted: &BTreeMap<String, String>) -> Duration {
        let (now, instant) = (Clock::system().now(), Instant::now());
        let due = |name: &String| match self.failing.get(name) {
            Some(failing) => Some(failing.rest_until.duration_since(instant)),
            None => self.held.get(name).map(|token| token.renew_at.since(now)),
        };
        wanted.keys().filter_map(due).min().unwrap_or(LOOK)
    }

    fn is_due(&self, name: &str) -> bool {
        match self.failing.get(name) {
            Some(failing) => Instant::now() >= failing.rest_until,
            None => self.held.get(name).is_none_or(|token| Clock::system().now() >= token.renew_at),
        }
    }
}

async fn ask(id: &str, audience: &str, client: &mut Client) -> Result<Token, ApiError> {
    let request = JwtsvidRequest { audience: vec![audience.to_owned()], spiffe_id: id.to_owned() };
    let answer = client.fetch_jwtsvid(marked(request)).await.map_err(judge)?.into_inner();
    let text = Zeroizing::new(answer.svids.into_iter().next().ok_or_else(nothing)?.svid);
    let expires_at = expiry(client, &text, audience).await?;
    let now = Clock::system().now();
    // One that is over is asked for again, but not without end.
    let left = expires_at.since(now).max(Duration::from_secs(2));
    Ok(Token { text, renew_at: now.plus(left / 2) })
}

#[cfg(test)]
mod tests;
