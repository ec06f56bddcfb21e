//! Names of users and groups. Stores keep numbers; Hadoop speaks names.
//!
//! Read once from the machine's own files when the server starts. A number without a name is shown as itself.

use std::collections::HashMap;
use std::io;
use std::path::Path;

/// Who is behind a number, and back.
#[derive(Debug, Default)]
pub(crate) struct Names {
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
    /// User and primary group by user name.
    ids: HashMap<String, (u32, u32)>,
    group_ids: HashMap<String, u32>,
}

impl Names {
    /// The users and groups of this machine.
    pub(crate) fn of_machine() -> Self {
        Self::parse(&read(Path::new("/etc/passwd")), &read(Path::new("/etc/group")))
    }

    fn parse(passwd: &str, group: &str) -> Self {
        let mut names = Self::default();
        for line in passwd.lines() {
            let fields: Vec<_> = line.split(':').collect();
            let [name, _, uid, gid, ..] = fields[..] else { continue };
            let (Ok(uid), Ok(gid)) = (uid.parse(), gid.parse()) else { continue };
            names.users.entry(uid).or_insert_with(|| name.to_owned());
            names.ids.insert(name.to_owned(), (uid, gid));
        }
        for line in group.lines() {
            let fields: Vec<_> = line.split(':').collect();
            let [name, _, gid, ..] = fields[..] else { continue };
            let Ok(gid) = gid.parse() else { continue };
            names.groups.entry(gid).or_insert_with(|| name.to_owned());
            names.group_ids.insert(name.to_owned(), gid);
        }
        names
    }

    pub(crate) fn user(&self, uid: u32) -> String {
        self.users.get(&uid).cloned().unwrap_or_else(|| uid.to_string())
    }

    pub(crate) fn group(&self, gid: u32) -> String {
        self.groups.get(&gid).cloned().unwrap_or_else(|| gid.to_string())
    }

    /// The user and primary group of a name, for the owner of what the user makes.
    pub(crate) fn owner(&self, user: &str) -> Option<(u32, u32)> {
        self.ids.get(user).copied()
    }

    /// A user's number, from a name or from digits.
    pub(crate) fn uid(&self, text: &str) -> Option<u32> {
        self.owner(text).map(|(uid, _)| uid).or_else(|| text.parse().ok())
    }

    /// A group's number, from a name or from digits.
    pub(crate) fn gid(&self, text: &str) -> Option<u32> {
        self.group_ids.get(text).copied().or_else(|| text.parse().ok())
    }
}

/// A machine without such a file has no names; numbers serve.
fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e: io::Error| {
        tracing::debug!(path = %path.display(), error = %e, "no names of users or groups");
        String::new()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_without_a_name_show_as_themselves() {
        let names = Names::parse(
            "root:x:0:0::/root:/bin/sh\nalice:x:1000:100::/:\nbroken",
            "wheel:x:0:\nstaff:x:100:\n",
        );
        assert_eq!((names.user(0), names.user(7)), ("root".into(), "7".into()));
        assert_eq!((names.group(0), names.group(7)), ("wheel".into(), "7".into()));
        assert_eq!(names.owner("alice"), Some((1000, 100)));
        assert_eq!((names.uid("12"), names.uid("bob"), names.gid("staff")), (Some(12), None, Some(100)));
    }
}
