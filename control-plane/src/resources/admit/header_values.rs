//! Warns of policies that deny by single values of a header field.

use super::Step;

/// Looks at the policies of the batch.
pub(super) fn warn(step: &Step<'_>, warnings: &mut Vec<String>) {
    for key in step.places.keys() {
        for (of, document) in step.documents(key) {
            for (statement, fields) in document.denies_by_header_values() {
                let named: Vec<String> = fields.iter().map(|field| format!("{field:?}")).collect();
                let (named, first) = (named.join(" and "), fields.first().map_or("", String::as_str));
                warnings.push(format!(
                    "{of}: {statement} denies by values of the header field {named}, and whoever sends several as one, such as \
                     `{first}: a, b`, sends another that it does not name; deny instead what is not among the good ones: \
                     ![\"a\"].containsAll(context.headers.getTag({first:?}))"
                ));
            }
        }
    }
}
