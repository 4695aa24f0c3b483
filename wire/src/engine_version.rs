//! Which Meilisearch a node is, where that changes what it is told.

use crate::error::{ApiError, Code};
use crate::settings::{RankingRule, SPLIT_RANKING_RULES, Setting, Settings};

/// A Meilisearch version. Patch releases make no difference here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EngineVersion {
    major: u64,
    minor: u64,
}

/// The first version whose `attribute` rule can be split, and whose new indexes have it split.
const SPLIT_ATTRIBUTE_RULE: EngineVersion = EngineVersion { major: 1, minor: 36 };

/// The first version that tells how many hits there are also beyond `pagination.maxTotalHits`.
const UNCAPPED_TOTALS: EngineVersion = EngineVersion { major: 1, minor: 47 };

impl EngineVersion {
    /// Reads a `pkgVersion` such as `1.15.2`; what is no number counts as 0.
    pub fn parse(pkg_version: &str) -> EngineVersion {
        let mut numbers = pkg_version.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
        let mut next = || numbers.next().unwrap_or(0);
        EngineVersion { major: next(), minor: next() }
    }

    /// The settings of a new index that this version does not leave to their older defaults.
    pub fn new_index_settings(self) -> Settings {
        let mut settings = Settings::default();
        if self >= SPLIT_ATTRIBUTE_RULE {
            settings.ranking_rules = Setting::Set(SPLIT_RANKING_RULES.to_vec());
        }
        settings
    }

    /// Whether totals stop at `pagination.maxTotalHits`, as hits do, and offsets are told as if they
    /// did.
    pub fn caps_totals(self) -> bool {
        self < UNCAPPED_TOTALS
    }

    /// Refuses what this version does not know, in its words. `at` is where the ranking rules
    /// stand in the request: `.rankingRules`, or nothing on their own route.
    ///
    /// # Errors
    /// `invalid_settings_ranking_rules`.
    pub fn check_settings(self, change: &Settings, at: &str) -> Result<(), ApiError> {
        let Setting::Set(rules) = &change.ranking_rules else { return Ok(()) };
        if self >= SPLIT_ATTRIBUTE_RULE {
            return Ok(());
        }
        match rules.iter().enumerate().find(|(_, rule)| rule.is_half_of_attribute()) {
            None => Ok(()),
            Some((n, rule)) => {
                let why = RankingRule::unknown(&rule.to_string());
                let message = format!("Invalid value at `{at}[{n}]`: {why}");
                Err(ApiError::new(Code::InvalidSettingsRankingRules, message))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(EngineVersion::parse("1.15.2") < EngineVersion::parse("1.36.0"));
        assert!(EngineVersion::parse("1.9.0") < EngineVersion::parse("1.15.0"));
        assert!(EngineVersion::parse("1.36.0-rc.1") < EngineVersion::parse("2.0.0"));
        assert_eq!(EngineVersion::parse("odd"), EngineVersion { major: 0, minor: 0 });
    }

    #[test]
    fn halves_of_the_attribute_rule_are_refused_as_unknown_where_they_are() {
        let change = br#"{"rankingRules": ["typo", "wordPosition"]}"#;
        let change = Settings::from_json(change).unwrap_or_default();
        let (old, new) = (EngineVersion::parse("1.15.2"), EngineVersion::parse("1.50.0"));
        assert_eq!(new.check_settings(&change, ".rankingRules"), Ok(()));
        let refused = old.check_settings(&change, ".rankingRules").map_err(|error| error.message);
        let unknown = Settings::from_json(br#"{"rankingRules": ["typo", "nonsense"]}"#);
        let unknown = unknown.map(|_| ()).map_err(|error| error.message);
        assert_eq!(refused.map_err(|message| message.replace("wordPosition", "nonsense")), unknown);
        let on_its_route = Settings::patch_from_sub_route("ranking-rules", Some(b"[\"nonsense\"]"));
        let on_its_route = on_its_route.map(|_| ()).map_err(|error| error.message);
        let change = Settings::patch_from_sub_route("ranking-rules", Some(b"[\"attributeRank\"]"));
        let refused = old.check_settings(&change.unwrap_or_default(), "");
        assert_eq!(
            refused.map_err(|error| error.message.replace("attributeRank", "nonsense")),
            on_its_route
        );
    }
}
