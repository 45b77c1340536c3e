//! Which records are about an instance: those that name it, in one way or another.

use std::collections::BTreeSet;

use hauberk_identity::{InstanceId, Serial};

use super::Record;

/// How many digits our serial numbers have.
const SERIAL_DIGITS: usize = 32;

/// An instance, and what else it goes by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// The instance: by its id, and by the serial numbers that say whose they are.
    pub instance: InstanceId,
    /// Its SPIFFE id, which it shares with others of its node; empty where that is not known.
    pub spiffe_id: String,
    /// Other words that mean it: serial numbers that do not say whose they are, the id of its join token.
    pub words: BTreeSet<String>,
}

/// What a record says of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Concerns {
    /// It names the instance.
    This,
    /// Some instance of its node acted, and it does not say which.
    SomeOfItsNode,
}

impl About {
    /// What a record says of the instance; `None` where it is about others.
    pub fn concerns(&self, record: &Record) -> Option<Concerns> {
        let texts = [&record.object, &record.reason];
        let named: Vec<bool> = texts.into_iter().filter_map(|text| self.named(text)).collect();
        if named.contains(&true) {
            return Some(Concerns::This);
        }
        let is_its_nodes = !self.spiffe_id.is_empty() && record.actor == self.spiffe_id;
        (named.is_empty() && is_its_nodes).then_some(Concerns::SomeOfItsNode)
    }

    /// Whether a text names it, or else another instance; `None` where it names none.
    fn named(&self, text: &str) -> Option<bool> {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        let (mut before, mut found) = ("", None);
        for word in words {
            let is_it = if word == self.instance.as_str() || self.words.contains(word) {
                Some(true)
            } else if word.len() == SERIAL_DIGITS
                && let Ok(serial) = word.parse::<Serial>()
            {
                Some(serial.instance() == Some(self.instance))
            } else {
                (before == "instance" && InstanceId::parse(word).is_ok()).then_some(false)
            };
            if is_it == Some(true) {
                return is_it;
            }
            found = found.or(is_it);
            before = word;
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::Outcome;

    #[test]
    fn a_record_is_about_whom_it_names() {
        let instance = InstanceId::from_random([7; 8]);
        let other = InstanceId::from_random([8; 8]);
        let (its, others) = (Serial::of_instance(instance, [1; 16]), Serial::of_instance(other, [1; 16]));
        let nameless = Serial::from_random([1; 16]);
        let node = "spiffe://shop.local/mesh/shop/node/orders";
        let about = About {
            instance,
            spiffe_id: node.to_owned(),
            words: BTreeSet::from(["51318d570d44".to_owned()]),
        };
        let concerns = |actor: &str, object: String, reason: String| {
            let (action, source, outcome) = (String::new(), String::new(), Outcome::Ok);
            let actor = actor.to_owned();
            about.concerns(&Record { sequence: 1, at: 1, actor, source, action, object, outcome, reason })
        };
        let admin = "spiffe://shop.local/admin/ada";
        let nothing = String::new;
        for (object, reason) in [
            (format!("instance {instance}"), nothing()),
            (nothing(), format!("serial {its}: revoked")),
            (nothing(), format!("serial {others} and then serial {its}")),
            ("51318d570d44".to_owned(), nothing()),
        ] {
            assert_eq!(
                concerns(admin, object.clone(), reason.clone()),
                Some(Concerns::This),
                "{object} {reason}"
            );
        }
        assert_eq!(concerns(node, "/sync".to_owned(), nothing()), Some(Concerns::SomeOfItsNode));
        for (object, reason) in [
            (format!("enrollment worker, instance {other}"), nothing()),
            (nothing(), format!("serial {others}")),
            (nothing(), format!("serial {nameless}")),
        ] {
            assert_eq!(concerns(node, object.clone(), reason.clone()), None, "{object} {reason}");
        }
        assert_eq!(concerns(admin, "shop/orders".to_owned(), nothing()), None);
    }
}
