//! `Asked`: which system is run, under which settings.

use any2pix_agent::{Decoder, EditSettings, SettingsPatch};
use serde_json::{Value, json};

use crate::systems::SystemName;
use crate::{EvalError, Result};

/// Weights of the condition that can be asked for one by one.
const MIX: [&str; 3] = ["mix_base", "mix_generated", "mix_refined"];

/// Which system is run, and what is asked of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// The system.
    pub system: SystemName,
    /// Part of the noise that SDEdit puts the source under.
    pub sdedit_strength: f64,
    /// Settings that are not the model's own.
    pub patch: SettingsPatch,
    /// Weights of the condition, base, generated and refined, that are not.
    pub mix: [Option<f64>; 3],
}

impl Default for Asked {
    fn default() -> Self {
        let patch = SettingsPatch::default();
        Self { system: SystemName::Model, sdedit_strength: 0.5, patch, mix: [None; 3] }
    }
}

impl Asked {
    /// The same with one thing changed: `system`, `sdedit_strength`, `mix_base`, `mix_generated`,
    /// `mix_refined`, or any of the settings by name.
    pub fn with(&self, name: &str, value: &Value) -> Result<Self> {
        let mut asked = self.clone();
        let shown = || format!("{name}={}", label(value));
        let number = || value.as_f64().ok_or_else(|| EvalError::syntax(shown(), "is no number"));
        if name == "system" {
            asked.system = value.as_str().unwrap_or_default().parse()?;
        } else if name == "sdedit_strength" {
            asked.sdedit_strength = number()?;
        } else if let Some(index) = MIX.iter().position(|weight| *weight == name) {
            asked.mix[index] = Some(number()?);
        } else {
            // The patch as it is, and over it the one setting: whatever has a name can be asked for.
            let mut patch = serde_json::to_value(&asked.patch).unwrap_or_default();
            patch[name] = value.clone();
            asked.patch =
                serde_json::from_value(patch).map_err(|error| EvalError::syntax(shown(), error))?;
        }
        Ok(asked)
    }

    /// The settings in force: the program's, the model's own, then what was asked for. The model's
    /// own are for its decoder; SDEdit and inversion, which use another, start from the program's.
    pub fn settings(&self, model: &SettingsPatch) -> Result<EditSettings> {
        let mut settings = EditSettings::default();
        match self.system {
            SystemName::SdEdit => {}
            SystemName::Inversion => settings.decoder = Decoder::Inversion,
            _ => model.apply(&mut settings),
        }
        self.patch.apply(&mut settings);
        for (weight, asked) in settings.mix.iter_mut().zip(self.mix) {
            *weight = asked.unwrap_or(*weight);
        }
        // A refusal to edit an unknown object is an answer; the table wants its picture.
        settings.force = true;
        settings.validate()?;
        if !(0.0..=1.0).contains(&self.sdedit_strength) {
            let text = format!("sdedit_strength={}", self.sdedit_strength);
            return Err(EvalError::syntax(text, "must be 0 to 1"));
        }
        Ok(settings)
    }

    /// The system as the report says it.
    pub fn about(&self) -> Value {
        match self.system {
            SystemName::SdEdit => json!({ "name": "sdedit", "strength": self.sdedit_strength }),
            other => json!({ "name": other.to_string() }),
        }
    }
}

/// A value as it is written.
pub(crate) fn label(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(label).collect::<Vec<_>>().join("_"),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_stands_over_the_models_own() {
        let model = SettingsPatch { steps: Some(1), guidance: Some(1.5), ..Default::default() };
        let asked = Asked::default().with("alpha", &json!(0.25)).unwrap();
        let asked = asked.with("mix_base", &json!(0.5)).unwrap();
        let settings = asked.settings(&model).unwrap();
        assert_eq!((settings.alpha, settings.mix), (Some(0.25), [0.5, 0.4, 1.0]));
        assert_eq!((settings.steps, settings.guidance, settings.force), (1, 1.5, true));
        let sdedit = asked.with("system", &json!("sdedit")).unwrap();
        assert_eq!(sdedit.settings(&model).unwrap().steps, EditSettings::default().steps);
        let few = sdedit.with("steps", &json!(7)).unwrap();
        assert_eq!(few.settings(&model).unwrap().steps, 7);
    }

    #[test]
    fn what_is_no_setting_or_out_of_range_is_refused() {
        for (name, value) in [
            ("alpa", json!(1)),
            ("steps", json!(1.5)),
            ("refine", json!(1)),
            ("decoder", json!("other")),
            ("system", json!("none")),
            ("mix_base", json!("much")),
        ] {
            assert!(Asked::default().with(name, &value).is_err(), "{name}");
        }
        for (name, value) in [("alpha", json!(2)), ("sdedit_strength", json!(-0.1))] {
            let asked = Asked::default().with(name, &value).unwrap();
            assert!(asked.settings(&SettingsPatch::default()).is_err(), "{name}");
        }
    }
}
