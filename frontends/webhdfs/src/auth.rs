//! Who calls: `user.name`, with a token where the access section asks for one, and `doas`.

use std::sync::Arc;

use actix_web::http::header::{AUTHORIZATION, HeaderMap};
use forebay_core::{Access, Principal};

use crate::error::{Exception, RemoteException, Result};
use crate::params::Params;

/// A caller who is known.
#[derive(Debug)]
pub(crate) struct Caller {
    /// The name that new files are owned by: `doas`, else `user.name`, else the principal's.
    pub(crate) user: String,
    pub(crate) principal: Arc<Principal>,
}

/// Recognises a caller. The token is `Authorization: Bearer …` or `delegation=…`.
///
/// `doas` is honoured when the caller could have called as that user with the same token: it then gives nothing away,
/// and proxy users need no rules of their own.
pub(crate) fn authenticate(access: &Access, headers: &HeaderMap, params: &Params) -> Result<Caller> {
    let bearer = headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim());
    let token = bearer.or_else(|| params.text("delegation"));
    let user = params.text("user.name");
    let principal = access.webhdfs(user, token).map_err(|e| {
        let message =
            format!("Authentication failed for {}: {e}", user.unwrap_or("a caller without user.name"));
        RemoteException::new(Exception::Unauthenticated, message)
    })?;
    let Some(wanted) = params.text("doas").filter(|wanted| Some(*wanted) != user) else {
        let user = user.map_or_else(|| principal.name.clone(), str::to_owned);
        return Ok(Caller { user, principal });
    };
    access
        .webhdfs(Some(wanted), token)
        .map(|principal| Caller { user: wanted.to_owned(), principal })
        .map_err(|_| {
            let user = user.unwrap_or(&principal.name);
            let message = format!("User: {user} is not allowed to impersonate {wanted}");
            RemoteException::new(Exception::Authorization, message)
        })
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;
    use forebay_core::{AccessBuilder, Secret};

    use super::*;

    fn access() -> Access {
        let principal = |name: &str| Arc::new(Principal { name: name.into(), grants: Vec::new() });
        let mut builder = AccessBuilder::default();
        builder.webhdfs_user("alice", Some(Secret::new("t1")), &principal("alice"));
        builder.webhdfs_user("carol", Some(Secret::new("t2")), &principal("carol"));
        builder.webhdfs_user("*", None, &principal("guest"));
        builder.build()
    }

    fn caller(query: &str, bearer: Option<&'static str>) -> Result<String> {
        let mut headers = HeaderMap::new();
        if let Some(bearer) = bearer {
            headers.insert(AUTHORIZATION, HeaderValue::from_static(bearer));
        }
        let caller = authenticate(&access(), &headers, &Params::parse(query)?)?;
        Ok(format!("{}/{}", caller.user, caller.principal.name))
    }

    #[test]
    fn a_token_comes_from_the_header_or_the_query() {
        assert_eq!(caller("user.name=alice", Some("Bearer t1")).expect("known"), "alice/alice");
        assert_eq!(caller("user.name=alice&delegation=t1", None).expect("known"), "alice/alice");
        assert_eq!(caller("", None).expect("known"), "guest/guest");
        assert_eq!(caller("user.name=bob", None).expect("known"), "bob/guest");
    }

    #[test]
    fn a_wrong_or_missing_token_is_401() {
        for (query, bearer) in [
            ("user.name=alice", None),
            ("user.name=alice", Some("Bearer t2")),
            ("user.name=alice&delegation=", None),
        ] {
            let error = caller(query, bearer).expect_err("refused");
            assert_eq!((error.status().as_u16(), error.exception), (401, Exception::Unauthenticated));
        }
    }

    #[test]
    fn doas_gives_nothing_that_the_caller_could_not_have_asked_for() {
        assert_eq!(caller("user.name=alice&doas=bob&delegation=t1", None).expect("open user"), "bob/guest");
        let error = caller("user.name=bob&doas=alice", None).expect_err("no token of alice");
        assert_eq!((error.status().as_u16(), error.exception), (403, Exception::Authorization));
        assert_eq!(error.message, "User: bob is not allowed to impersonate alice");
    }
}
