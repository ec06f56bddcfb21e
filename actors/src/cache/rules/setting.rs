//! Rules one setting at a time, in words: as the xattrs `user.forebay.NAME` say them.

use forebay_core::{Error, ErrorKind, Result};

use super::Rule;
use crate::cache::Priority;

/// The rule that says nothing but this.
///
/// # Errors
/// `InvalidArgument` when no setting has this name, or it no such value.
pub(super) fn parse(name: &str, value: &str) -> Result<Rule> {
    let wrong = |expected: &str| {
        let message = format!("`{name}` must be {expected}; `{value}` is not");
        Error::new(ErrorKind::InvalidArgument, message)
    };
    let switch = || match value {
        "1" => Ok(Some(true)),
        "0" => Ok(Some(false)),
        _ => Err(wrong("1 or 0")),
    };
    let open = Rule::default();
    match name {
        "pin" => Ok(Rule { pin: switch()?, ..open }),
        "epoch" => Ok(Rule { epoch: switch()?, ..open }),
        "ttl" => {
            let ttl = humantime::parse_duration(value).ok();
            let ttl_ms = ttl.and_then(|ttl| u64::try_from(ttl.as_millis()).ok());
            Ok(Rule {
                ttl_ms: Some(ttl_ms.ok_or_else(|| wrong("a duration such as 12h, or 0 for none"))?),
                ..open
            })
        }
        "priority" => {
            let priority = match value {
                "low" => Priority::Low,
                "normal" => Priority::Normal,
                "high" => Priority::High,
                _ => return Err(wrong("low, normal or high")),
            };
            Ok(Rule { priority: Some(priority), ..open })
        }
        _ => {
            let message = format!("there is no setting `{name}`; there are pin, epoch, ttl and priority");
            Err(Error::new(ErrorKind::InvalidArgument, message))
        }
    }
}

/// Leaves one open.
pub(super) fn clear(rule: &mut Rule, name: &str) {
    match name {
        "pin" => rule.pin = None,
        "epoch" => rule.epoch = None,
        "ttl" => rule.ttl_ms = None,
        "priority" => rule.priority = None,
        _ => {}
    }
}

/// The value of one; `None` where it is left open, and of what is no setting.
pub(super) fn value(rule: &Rule, name: &str) -> Option<String> {
    let switch = |is_on: bool| if is_on { "1" } else { "0" }.to_owned();
    match name {
        "pin" => rule.pin.map(switch),
        "epoch" => rule.epoch.map(switch),
        "ttl" => rule
            .ttl_ms
            .map(|ttl_ms| humantime::format_duration(std::time::Duration::from_millis(ttl_ms)).to_string()),
        "priority" => rule.priority.map(|priority| {
            match priority {
                Priority::Low => "low",
                Priority::Normal => "normal",
                Priority::High => "high",
            }
            .to_owned()
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_what_is_shown_until_it_is_taken_back() {
        for (name, said) in
            [("pin", "1"), ("epoch", "0"), ("ttl", "12h"), ("ttl", "0s"), ("priority", "high")]
        {
            let mut rule = parse(name, said).expect(said);
            assert_eq!(value(&rule, name).as_deref(), Some(said));
            clear(&mut rule, name);
            assert_eq!(rule, Rule::default());
        }
        for (name, said) in
            [("pin", "yes"), ("ttl", "soon"), ("priority", "2"), ("quota", "1GiB"), ("mount", "x")]
        {
            assert_eq!(
                parse(name, said).map_err(|e| e.kind()),
                Err(ErrorKind::InvalidArgument),
                "{name}={said}"
            );
        }
    }
}
