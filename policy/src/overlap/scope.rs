//! What a statement is about by its scope, and whether that is a part of what another one is about.

use std::collections::HashSet;

use cedar_policy::{EntityTypeName, EntityUid, PrincipalConstraint, ResourceConstraint};

use super::groups::Groups;
use crate::document::Statement;
use crate::vocabulary::{Action, ActionSet, Kind, VOCABULARY};

#[derive(Debug)]
pub(super) struct Scope<'a> {
    pub(super) name: &'a str,
    pub(super) text: &'a str,
    principal: Side,
    pub(super) resource: Side,
    actions: ActionSet,
}

/// One side of a scope.
#[derive(Debug)]
pub(super) struct Side {
    /// What it must be.
    is: Option<EntityTypeName>,
    /// What it must be, or be in.
    pub(super) within: Option<EntityUid>,
    exactly: bool,
}

/// What the sides of a narrow scope are in.
pub(super) struct Around {
    principal: HashSet<EntityUid>,
    pub(super) resource: HashSet<EntityUid>,
}

impl<'a> Scope<'a> {
    pub(super) fn of(statement: &'a Statement, text: &'a str) -> Self {
        let side = |is, within, exactly| Side { is, within, exactly };
        let principal = match statement.policy.principal_constraint() {
            PrincipalConstraint::Any => side(None, None, false),
            PrincipalConstraint::Is(kind) => side(Some(kind), None, false),
            PrincipalConstraint::In(uid) => side(None, Some(uid), false),
            PrincipalConstraint::IsIn(kind, uid) => side(Some(kind), Some(uid), false),
            PrincipalConstraint::Eq(uid) => side(None, Some(uid), true),
        };
        let resource = match statement.policy.resource_constraint() {
            ResourceConstraint::Any => side(None, None, false),
            ResourceConstraint::Is(kind) => side(Some(kind), None, false),
            ResourceConstraint::In(uid) => side(None, Some(uid), false),
            ResourceConstraint::IsIn(kind, uid) => side(Some(kind), Some(uid), false),
            ResourceConstraint::Eq(uid) => side(None, Some(uid), true),
        };
        let actions = VOCABULARY.admitted(&statement.policy.action_constraint());
        Self { name: &statement.name, text, principal, resource, actions }
    }

    pub(super) fn around(&self, groups: &Groups) -> Around {
        let of = |side: &Side| side.within.as_ref().map(|uid| groups.around(uid)).unwrap_or_default();
        Around { principal: of(&self.principal), resource: of(&self.resource) }
    }

    /// Whether it might hold wherever the other does, by what costs nothing to look at.
    pub(super) fn may_cover(&self, other: &Self) -> bool {
        self.actions.includes(other.actions)
            && self.principal.may_cover(&other.principal)
            && self.resource.may_cover(&other.resource)
    }

    /// Whether it surely holds wherever the other does.
    pub(super) fn covers(&self, other: &Self, around: &Around) -> bool {
        self.actions.includes(other.actions)
            && self.principal.covers(&other.principal, &around.principal, other.kind_of_caller())
            && self.resource.covers(&other.resource, &around.resource, other.kind_of_resource())
    }

    /// What its principal surely is.
    fn kind_of_caller(&self) -> Option<Kind> {
        let Side { is, within, .. } = &self.principal;
        match is {
            Some(kind) => Kind::parse(&kind.to_string()),
            // Nothing else is in these: only nodes are in meshes, and nothing in a caller but itself.
            None => match within.as_ref().and_then(Kind::of)? {
                Kind::Mesh | Kind::Node => Some(Kind::Node),
                kind @ (Kind::Workload | Kind::Anonymous) => Some(kind),
                _ => None,
            },
        }
    }

    /// What its resource surely is: a stream is for a port, and a request for a route.
    fn kind_of_resource(&self) -> Option<Kind> {
        if !self.actions.contains(Action::Connect) {
            return Some(Kind::Route);
        }
        Action::Connect.bits().includes(self.actions).then_some(Kind::Port)
    }
}

impl Side {
    fn may_cover(&self, other: &Self) -> bool {
        !self.exactly || self.within == other.within
    }

    /// Whether it holds wherever the other does, which is in all that is `around` it and of a known kind, if of one.
    fn covers(&self, other: &Self, around: &HashSet<EntityUid>, kind: Option<Kind>) -> bool {
        let fits_kind = self.is.as_ref().is_none_or(|own| {
            other.is.as_ref() == Some(own) || kind.is_some() && kind == Kind::parse(&own.to_string())
        });
        let fits_entity = match (&self.within, &other.within) {
            (None, _) => true,
            (Some(own), Some(others)) if self.exactly => own == others && other.exactly,
            (Some(own), Some(_)) => around.contains(own),
            (Some(_), None) => false,
        };
        fits_kind && fits_entity
    }
}
