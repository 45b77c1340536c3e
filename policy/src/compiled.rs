//! One statement, ready to decide.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use cedar_policy::{
    Effect as CedarEffect, EntityUid, Policy, PolicyId, PolicySet, PrincipalConstraint, ResourceConstraint,
    ValidationMode,
};
use serde_json::Value;

use crate::compile::CompileError;
use crate::document::Mode;
use crate::facts::Principal;
use crate::slice::{PolicySlice, SlicedPolicy};
use crate::vocabulary::{Action, ActionSet, Kind, VOCABULARY};

/// One statement with what can be told from it beforehand. It depends on nothing but its own text and the schema, and
/// so serves any engine that has it.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) name: Arc<str>,
    pub(crate) mode: Mode,
    text: Box<str>,
    pub(crate) policy: Policy,
    pub(crate) principal: PrincipalConstraint,
    pub(crate) resource: ResourceConstraint,
    pub(crate) actions: ActionSet,
    /// The roles that it mentions.
    pub(crate) roles: Vec<EntityUid>,
    pub(crate) reads: Reads,
}

/// What of the context a statement's conditions read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Reads {
    /// The path, or what follows from it: a gRPC method's two names.
    pub(crate) path: bool,
    pub(crate) method: bool,
}

/// Compiles a slice's statements, except those that are among `former`.
pub(crate) fn compile_statements(
    slice: &PolicySlice,
    former: &[Arc<Compiled>],
) -> Result<Vec<Arc<Compiled>>, CompileError> {
    let former: HashMap<&str, &Arc<Compiled>> =
        former.iter().map(|compiled| (&*compiled.name, compiled)).collect();
    let mut policies = Vec::with_capacity(slice.policies.len());
    let mut names = HashSet::with_capacity(slice.policies.len());
    let mut new = PolicySet::new();
    for sliced in &slice.policies {
        let duplicate = || CompileError::Duplicate(sliced.name.clone());
        if !names.insert(&*sliced.name) {
            return Err(duplicate());
        }
        let compiled = match former.get(&*sliced.name).filter(|compiled| compiled.is_of(sliced)) {
            Some(same) => Arc::clone(same),
            None => {
                let compiled = Compiled::parse(sliced)?;
                new.add(compiled.policy.clone()).map_err(|_| duplicate())?;
                Arc::new(compiled)
            }
        };
        policies.push(compiled);
    }
    // Each statement by itself: those that are not new were found valid when they were.
    let result = VOCABULARY.validator.validate(&new, ValidationMode::Strict);
    if let Some(error) = result.validation_errors().next() {
        let name = error.policy_id().to_string();
        return Err(CompileError::Invalid { name, reason: error.to_string() });
    }
    Ok(policies)
}

impl Compiled {
    /// Reads a statement. Whether it is valid by the schema is not looked at.
    fn parse(sliced: &SlicedPolicy) -> Result<Self, CompileError> {
        let invalid = |reason: String| CompileError::Invalid { name: sliced.name.clone(), reason };
        let policy = Policy::parse(Some(PolicyId::new(&sliced.name)), &sliced.text)
            .map_err(|error| invalid(error.to_string()))?;
        let reads = reads(&policy.to_json().map_err(|error| invalid(error.to_string()))?);
        let mentioned = policy.entity_literals().into_iter();
        Ok(Self {
            name: sliced.name.as_str().into(),
            mode: sliced.mode,
            text: sliced.text.as_str().into(),
            principal: policy.principal_constraint(),
            resource: policy.resource_constraint(),
            actions: VOCABULARY.admitted(&policy.action_constraint()),
            roles: mentioned.filter(|uid| Kind::of(uid) == Some(Kind::Role)).collect(),
            reads,
            policy,
        })
    }

    fn is_of(&self, SlicedPolicy { name, mode, text }: &SlicedPolicy) -> bool {
        *self.name == **name && self.mode == *mode && *self.text == **text
    }

    /// Whether the scope admits this caller and action; the resource aside.
    pub(crate) fn admits(&self, principal: &Principal, action: Action) -> bool {
        self.actions.contains(action) && self.admits_principal(principal)
    }

    pub(crate) fn admits_principal(&self, principal: &Principal) -> bool {
        match &self.principal {
            PrincipalConstraint::Any => true,
            PrincipalConstraint::Eq(uid) => *uid == principal.uid,
            PrincipalConstraint::In(uid) => principal.within.contains(uid),
            PrincipalConstraint::Is(type_name) => principal.uid.type_name() == type_name,
            PrincipalConstraint::IsIn(type_name, uid) => {
                principal.uid.type_name() == type_name && principal.within.contains(uid)
            }
        }
    }
}

/// Finds every mention of the context in a statement's syntax tree. One that is not a plain `context.x` or
/// `context has x` reads all of it.
fn reads(tree: &Value) -> Reads {
    let mut found = Reads::default();
    match tree {
        Value::Array(items) => items.iter().for_each(|item| found = found.and(reads(item))),
        Value::Object(fields) => {
            for (key, value) in fields {
                let is_context = |tree: Option<&Value>| {
                    tree.and_then(|tree| tree.get("Var")).and_then(Value::as_str) == Some("context")
                };
                let read = match key.as_str() {
                    "." | "has" if is_context(value.get("left")) => {
                        let is_method = value.get("attr").and_then(Value::as_str) == Some("method");
                        Reads { path: !is_method, method: is_method }
                    }
                    "Var" if value == "context" => Reads { path: true, method: true },
                    _ => reads(value),
                };
                found = found.and(read);
            }
        }
        _ => {}
    }
    found
}

impl Reads {
    pub(crate) fn and(self, other: Self) -> Self {
        Self { path: self.path || other.path, method: self.method || other.method }
    }
}

/// Whether Cedar's effect is to permit.
pub(crate) fn permits(policy: &Policy) -> bool {
    policy.effect() == CedarEffect::Permit
}
