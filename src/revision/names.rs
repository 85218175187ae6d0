//! Names by which an agent's objects find each other, each made in one function.
//!
//! Agents have at most 40 characters (a rule of the API server), so `<agent>-<hash>` always names a Service.

use sha2::{Digest, Sha256};

use crate::api::short_hex;

/// The port of every Service that Sluice makes; it leads to the agent's own port.
pub const SERVICE_PORT: i32 = 80;

/// The longest name that Kubernetes accepts for a ConfigMap.
const LONGEST: usize = 253;
/// Digits of a revision's hash.
const DIGITS: usize = 10;

/// `<agent>-<hash>`: the revision's Deployment, Service, ControllerRevision and PodDisruptionBudget.
pub fn revision_name(agent: &str, hash: &str) -> String {
    format!("{agent}-{hash}")
}

/// The hash in `<agent>-<hash>`. `None` if the name is not of that form.
pub fn hash_in(agent: &str, name: &str) -> Option<String> {
    let hash = name.strip_prefix(agent)?.strip_prefix('-')?;
    let digit = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
    (hash.len() == DIGITS && hash.bytes().all(digit)).then(|| hash.to_owned())
}

/// `<agent>-<hash>-<ConfigMap>`: the frozen copy of a ConfigMap. A name that is too long ends in a digest of itself.
pub fn frozen_name(agent: &str, hash: &str, config_map: &str) -> String {
    let full = format!("{agent}-{hash}-{config_map}");
    if full.len() <= LONGEST {
        return full;
    }
    let room = LONGEST - DIGITS - 1;
    let end = (0..=room).rev().find(|at| full.is_char_boundary(*at)).unwrap_or_default();
    let kept = full[..end].trim_end_matches(|c: char| !c.is_ascii_alphanumeric()); // `a.-b` is no name
    format!("{kept}-{}", short_hex(&Sha256::digest(full.as_bytes())))
}

/// The volume that carries a part of `spec.config`.
pub fn config_volume(config: &str) -> String {
    format!("sluice-{config}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_read_back_from_the_name() {
        let name = revision_name("refund-agent", "0123456789");
        assert_eq!(name, "refund-agent-0123456789");
        assert_eq!(hash_in("refund-agent", &name).as_deref(), Some("0123456789"));
    }

    #[test]
    fn names_of_others_hold_no_hash() {
        for name in [
            "refund",
            "refund-",
            "refund-012345678",
            "refund-012345678g",
            "refund-012345678A",
            "refund-x-0123456789",
            "other-0123456789",
        ] {
            assert_eq!(hash_in("refund", name), None, "{name}");
        }
    }

    #[test]
    fn a_frozen_name_is_never_too_long_and_never_shared() {
        let long = |tail: &str| format!("{}{tail}", "p".repeat(200));
        let one = frozen_name(&"a".repeat(40), "0123456789", &long("-x"));
        assert!(one.len() <= LONGEST);
        let two = frozen_name(&"a".repeat(40), "0123456789", &long("-y"));
        assert_eq!(frozen_name("refund", "0123456789", "prompts"), "refund-0123456789-prompts");
        assert!(two.len() <= LONGEST);
        assert_ne!(one, two);
    }

    #[test]
    fn a_frozen_name_is_not_cut_inside_a_dot() {
        let name = frozen_name("a", "0123456789", &format!("{}{}", "p".repeat(228), ".".repeat(24)));
        assert!(!name.contains(".-"), "{name}");
    }
}
