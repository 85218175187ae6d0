//! Amounts with their unit: `99%`, `1200ms`, `"0.50"`, `0`. Never floats, so that a threshold means what it says.

use std::{borrow::Cow, fmt, str::FromStr};

use rust_decimal::Decimal;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An amount as the user wrote it, and its value in base units (shares as 0..1, times in seconds).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Amount {
    text: String,
    value: Decimal,
}

/// What an amount measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unit {
    /// `%`.
    Share,
    /// `ms`, `s`, `m`, `h`.
    Time,
    /// A number without a unit.
    Plain,
}

/// Why a text is not an amount.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an amount: write a number with an optional unit, such as 99%, 1200ms, 1.5s, 15m, 2h or 0.50")]
pub struct AmountError(String);

/// Unit suffixes, longest first, with the factor to base units as numerator and denominator.
const UNITS: [(&str, i64, i64); 5] = [("ms", 1, 1000), ("%", 1, 100), ("s", 1, 1), ("m", 60, 1), ("h", 3600, 1)];

impl Amount {
    /// The value in base units: a share for `%`, seconds for times, the number itself otherwise.
    pub fn value(&self) -> Decimal {
        self.value
    }

    /// What it measures, as its unit says.
    pub fn unit(&self) -> Unit {
        match self.text.trim_start_matches('-').trim_start_matches(|c: char| c.is_ascii_digit() || c == '.') {
            "%" => Unit::Share,
            "" => Unit::Plain,
            _ => Unit::Time,
        }
    }
}

impl FromStr for Amount {
    type Err = AmountError;

    fn from_str(text: &str) -> Result<Self, AmountError> {
        let error = || AmountError(text.chars().take(40).collect());
        let (number, factor) = UNITS
            .iter()
            .find_map(|(unit, up, down)| {
                text.strip_suffix(unit).map(|n| (n, Decimal::from(*up) / Decimal::from(*down)))
            })
            .unwrap_or((text, Decimal::ONE));
        let plain = number.trim_start_matches('-').chars().all(|c| c.is_ascii_digit() || c == '.');
        if !plain || number.is_empty() {
            return Err(error());
        }
        let value = Decimal::from_str(number).map_err(|_| error())?.checked_mul(factor).ok_or_else(error)?;
        Ok(Self { text: text.to_owned(), value: value.normalize() })
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Whole(i64),
            Text(String),
        }
        let text = match Written::deserialize(deserializer)? {
            Written::Whole(number) => number.to_string(),
            Written::Text(text) => text,
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Amount {
    fn schema_name() -> Cow<'static, str> {
        "Amount".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "nullable": false, // kube adds `true` to optional ones that do not say
            "maxLength": 24,
            "pattern": r"^-?[0-9]{1,12}(\.[0-9]{1,9})?(%|ms|s|m|h)?$",
        })
    }

    fn inline_schema() -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> String {
        text.parse::<Amount>().unwrap().value().to_string()
    }

    #[test]
    fn units_become_base_units_exactly() {
        for (text, expected) in [
            ("99%", "0.99"),
            ("0.1%", "0.001"),
            ("1200ms", "1.2"),
            ("1.5s", "1.5"),
            ("15m", "900"),
            ("2h", "7200"),
            ("0.50", "0.5"),
            ("0", "0"),
            ("-3", "-3"),
            ("200%", "2"),
        ] {
            assert_eq!(value(text), expected, "{text}");
        }
    }

    #[test]
    fn a_wrong_amount_is_refused_with_the_mend() {
        for text in [
            "",
            "%",
            "ms",
            "1e5",
            "NaN",
            "ten",
            "1.2.3",
            "5 %",
            "0x10",
            "1d",
            "+1",
            "99999999999999999999999999999999h",
        ] {
            let error = text.parse::<Amount>().unwrap_err().to_string();
            assert!(error.contains("is not an amount: write a number"), "{text}: {error}");
        }
    }

    #[test]
    fn whole_numbers_need_no_quotes_in_yaml() {
        assert_eq!(serde_json::from_str::<Amount>("0").unwrap().value(), Decimal::ZERO);
        assert!(serde_json::from_str::<Amount>("0.5").is_err(), "a float is not exact: it must be quoted");
    }
}
