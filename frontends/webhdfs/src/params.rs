//! Query parameters, read as Hadoop reads them: names in any case, the first of several wins, unknown ones are
//! ignored, an empty value or `null` counts as absent.

use percent_encoding::percent_decode_str;

use crate::error::{Exception, RemoteException, Result};

/// The decoded parameters of one request.
#[derive(Debug, Default)]
pub(crate) struct Params(Vec<(String, String)>);

impl Params {
    /// Decodes a raw query.
    pub(crate) fn parse(query: &str) -> Result<Self> {
        let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(name)?.to_ascii_lowercase(), decode(value)?))
        });
        pairs.collect::<Result<_>>().map(Self)
    }

    /// The value as sent.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// Every value as sent, in order.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(n, v)| n == name && !v.is_empty()).map(|(_, v)| v.as_str())
    }

    /// A value that the operation cannot do without.
    pub(crate) fn required(&self, name: &str, operation: &str) -> Result<&str> {
        self.text(name).ok_or_else(|| {
            let message = format!("Required param {name} for op: {operation} is null or empty");
            RemoteException::new(Exception::IllegalArgument, message)
        })
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.text(name).filter(|text| *text != "null")
    }

    pub(crate) fn boolean(&self, name: &str, default: bool) -> Result<bool> {
        match self.value(name) {
            None => Ok(default),
            Some(text) if text.eq_ignore_ascii_case("true") => Ok(true),
            Some(text) if text.eq_ignore_ascii_case("false") => Ok(false),
            Some(text) => {
                Err(RemoteException::parameter(name, &format!("Failed to parse \"{text}\" to Boolean.")))
            }
        }
    }

    /// A decimal number of at least `min`.
    pub(crate) fn number(&self, name: &str, min: i64) -> Result<Option<i64>> {
        let Some(text) = self.value(name) else { return Ok(None) };
        let Ok(number) = text.parse::<i64>() else {
            let problem = format!("Failed to parse \"{text}\" as a radix-10 long integer.");
            return Err(RemoteException::parameter(name, &problem));
        };
        if number < min {
            let problem = format!("Invalid parameter range: {name} = {number} < {min}");
            return Err(RemoteException::parameter(name, &problem));
        }
        Ok(Some(number))
    }

    /// A number of bytes.
    pub(crate) fn bytes(&self, name: &str) -> Result<Option<u64>> {
        Ok(self.number(name, 0)?.map(|number| number as u64))
    }

    /// Permission bits in octal, the sticky bit included.
    pub(crate) fn permission(&self) -> Result<Option<u32>> {
        let Some(text) = self.value("permission") else { return Ok(None) };
        let Ok(mode) = u32::from_str_radix(text, 8) else {
            let problem = format!("Failed to parse \"{text}\" as a radix-8 short integer.");
            return Err(RemoteException::parameter("permission", &problem));
        };
        if mode > 0o1777 {
            let problem = format!("Invalid parameter range: permission = {mode:o} > 1777");
            return Err(RemoteException::parameter("permission", &problem));
        }
        Ok(Some(mode))
    }
}

fn decode(text: &str) -> Result<String> {
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8().map(Into::into).map_err(|_| {
        let message = format!("the query is not UTF-8: {text}");
        RemoteException::new(Exception::IllegalArgument, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(query: &str) -> Params {
        Params::parse(query).expect("valid query")
    }

    #[test]
    fn booleans_and_names_ignore_case_and_the_first_wins() {
        let params = params("OverWrite=TRUE&overwrite=false&unknown=1&&recursive=");
        assert!(params.boolean("overwrite", false).expect("boolean"));
        assert!(!params.boolean("recursive", false).expect("absent"));
        assert_eq!(
            self::params("noredirect=2").boolean("noredirect", false).expect_err("not a boolean").message,
            "Invalid value for webhdfs parameter \"noredirect\": Failed to parse \"2\" to Boolean."
        );
    }

    #[test]
    fn plus_is_a_space_in_values() {
        assert_eq!(params("destination=/a+b%2Bc%C3%A9").text("destination"), Some("/a b+cé"));
    }

    #[test]
    fn numbers_fail_in_hadoops_words() {
        let message = |query: &str| params(query).number("offset", 0).expect_err("refused").message;
        assert_eq!(
            message("offset=abc"),
            "Invalid value for webhdfs parameter \"offset\": Failed to parse \"abc\" as a radix-10 long integer."
        );
        assert_eq!(
            message("offset=-1"),
            "Invalid value for webhdfs parameter \"offset\": Invalid parameter range: offset = -1 < 0"
        );
        assert_eq!(params("permission=1777").permission().expect("octal"), Some(0o1777));
        assert!(
            params("permission=7777").permission().is_err() && params("permission=9").permission().is_err()
        );
    }
}
