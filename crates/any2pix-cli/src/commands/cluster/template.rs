//! Filling in templates, and writing words as shells and YAML read them.

use crate::diagnostics::Failure;

/// The template with what `values` say in the places that look like `{{name}}`.
pub(super) fn fill(template: &str, values: &[(&str, String)]) -> Result<String, Failure> {
    let mut text = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let place = after.split_once("}}").and_then(|(name, after)| {
            let (_, value) = values.iter().find(|(known, _)| *known == name)?;
            Some((value, after))
        });
        let Some((value, after)) = place else {
            return Err(Failure::internal("a template has a place that nobody fills"));
        };
        text.push_str(before);
        text.push_str(value);
        rest = after;
    }
    Ok(text + rest)
}

/// Words as a shell reads them.
pub(super) fn shell<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<String, Failure> {
    shlex::try_join(words).map_err(|e| Failure::refused(format!("a word of the command: {e}")))
}

/// A text as YAML reads it: JSON is YAML, too.
pub(super) fn yaml(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_put_in_once_and_places_without_a_value_are_found() {
        let values = [("a", "{{b}}".to_string()), ("b", "2".to_string())];
        assert_eq!(fill("x {{a}} {{b}}", &values).unwrap(), "x {{b}} 2");
        assert!(fill("x {{c}}", &values).is_err());
        assert!(fill("x {{a", &values).is_err());
    }

    #[test]
    fn words_survive_a_shell() {
        let words = ["it's", "a b", "$HOME", "--mix=0,1,2", "*"];
        let line = shell(words).unwrap();
        let output = std::process::Command::new("sh")
            .args(["-c", &format!("printf '%s\\n' {line}")])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), words.join("\n") + "\n");
    }
}
