//! What a document refers to within itself.

use std::collections::BTreeMap;

use hauberk_policy::unescaped;
use serde_json::Value;

use super::{CLASSES, Flaw, METHODS};

/// The most references that lead to one thing.
const MOST_STEPS: usize = 8;
/// The most fields that are looked at, all references taken together: a few lines can refer to a large thing many times.
const MOST_FIELDS: usize = 200_000;

/// A document, and how much of it was looked at.
pub(super) struct References<'d> {
    document: &'d Value,
    fields: usize,
}

impl<'d> References<'d> {
    pub(super) fn within(document: &'d Value) -> Self {
        Self { document, fields: 0 }
    }

    /// The fields of an object, and of what its `$ref` refers to.
    pub(super) fn fields(&mut self, of: &'d Value, at: &str) -> Result<BTreeMap<&'d str, &'d Value>, Flaw> {
        let mut fields = BTreeMap::new();
        let mut object = of;
        for _ in 0..=MOST_STEPS {
            let Value::Object(own) = object else { return Err(Flaw::at(at, "it is not a mapping")) };
            self.look_at(own.len(), at)?;
            for (name, value) in own.iter().filter(|(name, _)| *name != "$ref") {
                if fields.insert(&**name, value).is_some() && matters(name) {
                    let message = "it stands here and in what is referred to: leave one";
                    return Err(Flaw::at(format!("{at}.{name}"), message));
                }
            }
            let Some(reference) = own.get("$ref") else { return Ok(fields) };
            object = self.follow(reference).map_err(|message| Flaw::at(format!("{at}.$ref"), message))?;
        }
        Err(Flaw::at(format!("{at}.$ref"), format!("it leads through more than {MOST_STEPS} references")))
    }

    /// As [`Self::fields`] of what says little: nothing where it is no object, or refers to what is not there.
    pub(super) fn within_reach(
        &mut self,
        of: &'d Value,
        at: &str,
    ) -> Result<Option<BTreeMap<&'d str, &'d Value>>, Flaw> {
        let found = self.fields(of, at).ok();
        // Whatever else is wrong, this was too much.
        self.look_at(0, at).map(|()| found)
    }

    /// Counts what is looked at.
    pub(super) fn look_at(&mut self, fields: usize, at: &str) -> Result<(), Flaw> {
        self.fields += fields;
        if self.fields > MOST_FIELDS {
            return Err(Flaw::at(at, format!("references lead to more than {MOST_FIELDS} fields in all")));
        }
        Ok(())
    }

    fn follow(&self, reference: &Value) -> Result<&'d Value, String> {
        let reference = reference.as_str().ok_or("it is not a text")?;
        let Some(fragment) = reference.strip_prefix('#') else {
            return Err(format!(
                "{reference:?} is another document, and no other one is read: write it here, bundle the documents into one, \
                 or name the file as openapiFile:"
            ));
        };
        if !fragment.starts_with('/') {
            return Err(format!(
                "{reference:?} is not understood: write a place such as #/components/pathItems/NAME"
            ));
        }
        let pointer = unescaped(fragment);
        let found = pointer.and_then(|pointer| self.document.pointer(&pointer));
        found.ok_or_else(|| format!("there is no {reference:?} in the document"))
    }
}

/// Whether a field says anything that routes are made of. Of two of others it does not matter which one counts.
fn matters(field: &str) -> bool {
    METHODS.contains(&field) || matches!(field, "servers" | "additionalOperations" | CLASSES)
}
