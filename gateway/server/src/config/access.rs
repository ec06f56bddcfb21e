//! The `access` section: who, with which credentials on which frontend, and where they may read or write.

use std::collections::HashMap;
use std::sync::Arc;

use forebay_core::{Access, AccessBuilder, Grant, NsPath, Permission, Principal, Secret};

use super::reader::{Parse, Reader, Section};

impl Parse for NsPath {
    const EXPECTED: &'static str = "an absolute path such as /bucket/prefix, without a trailing slash";
    const EXAMPLE: &'static str = "/";
    fn parse(text: &str) -> Option<Self> {
        Self::parse(text).ok()
    }
}

impl Parse for Permission {
    const EXPECTED: &'static str = "`read` or `write`";
    const EXAMPLE: &'static str = "read";
    fn parse(text: &str) -> Option<Self> {
        match text {
            "read" => Some(Self::Read),
            "write" => Some(Self::Write),
            _ => None,
        }
    }
}

pub(super) fn read(gateway: &Section<'_>) -> Access {
    let mut builder = AccessBuilder::default();
    let Some(list) = gateway.node("access") else { return builder.build() };
    let mut claimed = Claims { gateway, by: HashMap::new() };
    for node in Reader::items(list) {
        let section = gateway.reader.section(node, "access");
        read_principal(&section, &mut builder, &mut claimed);
        section.finish();
    }
    builder.build()
}

/// What may belong to one entry only: access keys, user names, the FUSE mount, anonymous requests.
struct Claims<'a> {
    gateway: &'a Section<'a>,
    by: HashMap<String, usize>,
}

impl Claims<'_> {
    fn claim(&mut self, section: &Section<'_>, what: &str) {
        let line = section.node.line;
        if let Some(first) = self.by.insert(what.to_owned(), line) {
            let message =
                format!("{what} is already given to the entry on line {first}; it can have one owner");
            self.gateway.reader.problem(section.node, message);
        }
    }
}

fn read_principal(section: &Section<'_>, builder: &mut AccessBuilder, claims: &mut Claims<'_>) {
    let name: Option<String> = section.required("name");
    if let Some(name) = &name {
        claims.claim(section, &format!("the name `{name}`"));
    }
    let principal = Arc::new(Principal { name: name.unwrap_or_default(), grants: grants(section) });
    if let Some(s3) = section.section("s3") {
        let keys = s3.required::<String>("access_key").zip(s3.required::<Secret>("secret_key"));
        if let Some((access_key, secret)) = keys {
            claims.claim(section, &format!("the S3 access key `{access_key}`"));
            builder.s3_key(&access_key, secret, &principal);
        }
        s3.finish();
    }
    if section.value("anonymous", false) {
        claims.claim(section, "anonymous S3 access");
        builder.anonymous(&principal);
    }
    if let Some(webhdfs) = section.section("webhdfs") {
        read_webhdfs(&webhdfs, &principal, builder, claims);
        webhdfs.finish();
    }
    if section.value("fuse", false) {
        claims.claim(section, "the FUSE mount");
        builder.fuse(&principal);
    }
    if let Some(admin) = section.section("admin") {
        if let Some(token) = admin.required("token") {
            builder.admin_token(token);
        }
        admin.finish();
    }
}

fn read_webhdfs(
    section: &Section<'_>,
    principal: &Arc<Principal>,
    builder: &mut AccessBuilder,
    claims: &mut Claims<'_>,
) {
    let token: Option<Secret> = section.optional("token");
    let Some(list) = section.node("users") else {
        let message = "`access.webhdfs.users` is missing; write `users: [alice]` or `users: [\"*\"]`";
        return section.problem("users", message);
    };
    for node in Reader::items(list) {
        if let Some(user) = section.reader.value::<String>(node, "access.webhdfs.users") {
            claims.claim(section, &format!("the WebHDFS user `{user}`"));
            builder.webhdfs_user(&user, token.clone(), principal);
        }
    }
}

fn grants(section: &Section<'_>) -> Vec<Grant> {
    let Some(list) = section.node("grants") else {
        section.problem("grants", "`access.grants` is missing; write `grants: [{prefix: /, access: read}]`");
        return Vec::new();
    };
    let mut grants = Vec::new();
    for node in Reader::items(list) {
        let grant = section.reader.section(node, "access.grants");
        if let Some((prefix, permission)) = grant.required("prefix").zip(grant.required("access")) {
            grants.push(Grant { prefix, permission });
        }
        grant.finish();
    }
    grants
}
