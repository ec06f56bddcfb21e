//! Who may do what. Frontends authenticate against [`Access`]; [`crate::Namespace`] checks each call's grants.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use subtle::ConstantTimeEq;

use crate::{Error, ErrorKind, NsPath, Result};

/// A secret that never shows itself in logs, errors or `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The secret itself, for the one place that signs or sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Compares in constant time.
    pub fn matches(&self, candidate: &str) -> bool {
        bool::from(self.0.as_bytes().ct_eq(candidate.as_bytes()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// What a grant allows, and what an operation needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Permission {
    /// Look, list and read.
    Read,
    /// Read and change.
    Write,
}

/// A permission on everything at and below a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Where it holds.
    pub prefix: NsPath,
    /// What it allows.
    pub permission: Permission,
}

/// Somebody with grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// Name in logs and as the owner of what the principal writes.
    pub name: String,
    /// What the principal may do.
    pub grants: Vec<Grant>,
}

impl Principal {
    /// Whether the principal holds `permission` on `path`.
    pub fn may(&self, permission: Permission, path: &NsPath) -> bool {
        self.grants.iter().any(|grant| grant.permission >= permission && path.starts_with(&grant.prefix))
    }

    /// Whether `path` can be looked at: readable, or on the way to something readable.
    pub fn may_traverse(&self, path: &NsPath) -> bool {
        self.may(Permission::Read, path) || self.grants.iter().any(|grant| grant.prefix.starts_with(path))
    }
}

/// Which session made a call, so that its own changes are not echoed to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Origin(pub u64);

/// On whose behalf a call is made.
#[derive(Clone, Debug)]
pub struct Context {
    /// Who calls.
    pub principal: Arc<Principal>,
    /// Which session; `None` for the request-based protocols.
    pub origin: Option<Origin>,
}

impl Context {
    /// A call of `principal` that belongs to no session.
    pub fn new(principal: Arc<Principal>) -> Self {
        Self { principal, origin: None }
    }

    pub(crate) fn check(&self, permission: Permission, path: &NsPath) -> Result<()> {
        if self.principal.may(permission, path) {
            return Ok(());
        }
        let verb = match permission {
            Permission::Read => "read",
            Permission::Write => "write",
        };
        let message = format!("{} has no grant to {verb} here", self.principal.name);
        Err(Error::new(ErrorKind::AccessDenied, message).at(verb, path))
    }
}

/// The principals and how each protocol recognises them, from the `access` section. What frontends share is
/// exchanged under them when the section changes: a request is judged by the rules it began with.
#[derive(Debug, Default)]
pub struct Access(ArcSwap<Rules>);

#[derive(Debug, Default)]
struct Rules {
    s3_keys: HashMap<String, (Secret, Arc<Principal>)>,
    webhdfs_users: HashMap<String, (Option<Secret>, Arc<Principal>)>,
    anonymous: Option<Arc<Principal>>,
    fuse: Option<Arc<Principal>>,
    admin_tokens: Vec<Secret>,
}

/// Collects principals for an [`Access`].
#[derive(Debug, Default)]
pub struct AccessBuilder(Rules);

impl AccessBuilder {
    /// Lets `principal` sign S3 requests with a key pair.
    pub fn s3_key(&mut self, access_key: &str, secret_key: Secret, principal: &Arc<Principal>) -> &mut Self {
        self.0.s3_keys.insert(access_key.to_owned(), (secret_key, Arc::clone(principal)));
        self
    }

    /// Lets WebHDFS callers with this `user.name` (`*`: any) act as `principal`, with a token where one is set.
    pub fn webhdfs_user(
        &mut self,
        user: &str,
        token: Option<Secret>,
        principal: &Arc<Principal>,
    ) -> &mut Self {
        self.0.webhdfs_users.insert(user.to_owned(), (token, Arc::clone(principal)));
        self
    }

    /// Serves unsigned S3 requests as `principal`.
    pub fn anonymous(&mut self, principal: &Arc<Principal>) -> &mut Self {
        self.0.anonymous = Some(Arc::clone(principal));
        self
    }

    /// Makes `principal` the owner of the FUSE mount.
    pub fn fuse(&mut self, principal: &Arc<Principal>) -> &mut Self {
        self.0.fuse = Some(Arc::clone(principal));
        self
    }

    /// Accepts `token` on the admin API.
    pub fn admin_token(&mut self, token: Secret) -> &mut Self {
        self.0.admin_tokens.push(token);
        self
    }

    /// The finished rules.
    pub fn build(&mut self) -> Access {
        Access(ArcSwap::from_pointee(std::mem::take(&mut self.0)))
    }
}

impl Access {
    /// Takes over the rules of `other` for all requests that begin from now on.
    pub fn exchange(&self, other: &Self) {
        self.0.store(other.0.load_full());
    }

    /// The secret and owner of an S3 access key.
    pub fn s3(&self, access_key: &str) -> Option<(Secret, Arc<Principal>)> {
        self.0.load().s3_keys.get(access_key).cloned()
    }

    /// Who unsigned S3 requests act as, where the configuration allows them.
    pub fn anonymous(&self) -> Option<Arc<Principal>> {
        self.0.load().anonymous.clone()
    }

    /// Who a WebHDFS caller is: by exact user, else by `*`; the token must match where one is set.
    ///
    /// # Errors
    /// [`ErrorKind::AccessDenied`] for an unknown user or a wrong or missing token.
    pub fn webhdfs(&self, user: Option<&str>, token: Option<&str>) -> Result<Arc<Principal>> {
        let rules = self.0.load();
        let users = &rules.webhdfs_users;
        let entry = user.and_then(|user| users.get(user)).or_else(|| users.get("*"));
        match entry {
            Some((None, principal)) => Ok(Arc::clone(principal)),
            Some((Some(secret), principal)) if token.is_some_and(|token| secret.matches(token)) => {
                Ok(Arc::clone(principal))
            }
            Some(_) => Err(Error::new(ErrorKind::AccessDenied, "the token is missing or wrong")),
            None => Err(Error::new(ErrorKind::AccessDenied, "this user is not in the access section")),
        }
    }

    /// Whether every WebHDFS user needs a token.
    pub fn webhdfs_needs_token(&self) -> bool {
        self.0.load().webhdfs_users.values().all(|(token, _)| token.is_some())
    }

    /// The owner of the FUSE mount.
    pub fn fuse(&self) -> Option<Arc<Principal>> {
        self.0.load().fuse.clone()
    }

    /// Whether `token` opens the admin API; without any configured token it is open (loopback only).
    pub fn admin(&self, token: Option<&str>) -> bool {
        let rules = self.0.load();
        let tokens = &rules.admin_tokens;
        tokens.is_empty() || token.is_some_and(|token| tokens.iter().any(|secret| secret.matches(token)))
    }

    /// Whether the admin API asks for a token.
    pub fn has_admin_token(&self) -> bool {
        !self.0.load().admin_tokens.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> NsPath {
        NsPath::parse(text).expect("valid path")
    }

    fn principal(prefix: &str, permission: Permission) -> Arc<Principal> {
        Arc::new(Principal { name: "p".into(), grants: vec![Grant { prefix: path(prefix), permission }] })
    }

    #[test]
    fn grants_hold_below_their_prefix_only() {
        let reader = principal("/a/b", Permission::Read);
        assert!(reader.may(Permission::Read, &path("/a/b/c")));
        assert!(!reader.may(Permission::Write, &path("/a/b/c")));
        assert!(!reader.may(Permission::Read, &path("/a/bc")));
        assert!(reader.may_traverse(&path("/a")) && !reader.may_traverse(&path("/x")));
    }

    #[test]
    fn secrets_do_not_show() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "[secret]");
    }

    #[test]
    fn exchanged_rules_hold_for_whoever_shares_them() {
        let (mut before, mut after) = (AccessBuilder::default(), AccessBuilder::default());
        before.s3_key("old", Secret::new("s"), &principal("/", Permission::Write));
        after.s3_key("new", Secret::new("s"), &principal("/", Permission::Write));
        let shared = Arc::new(before.build());
        shared.exchange(&after.build());
        assert!(shared.s3("old").is_none() && shared.s3("new").is_some());
    }

    #[test]
    fn webhdfs_user_with_token_needs_it() {
        let mut builder = AccessBuilder::default();
        builder.webhdfs_user("alice", Some(Secret::new("t")), &principal("/", Permission::Write));
        let access = builder.build();
        assert!(access.webhdfs(Some("alice"), Some("t")).is_ok());
        assert!(access.webhdfs(Some("alice"), Some("x")).is_err());
        assert!(access.webhdfs(Some("alice"), None).is_err());
        assert!(access.webhdfs(Some("bob"), Some("t")).is_err());
    }
}
