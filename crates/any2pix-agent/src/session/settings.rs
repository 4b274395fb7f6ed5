//! Settings of a conversation by name: `steps 30`, `mix 0,0.4,1`, `size 512x384`, `seed default`.

use serde_json::{Map, Value, json};

use super::Session;
use crate::error::AgentError;
use crate::settings::{EditSettings, SettingsPatch};

/// The value that brings a setting back to what the conversation began with.
const DEFAULT: &str = "default";

/// Every setting with its value.
fn table(settings: &EditSettings) -> Map<String, Value> {
    match serde_json::to_value(settings) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

/// A value as people read and type it.
fn shown(key: &str, value: &Value) -> String {
    let parts = |parts: &[Value], between| {
        let parts: Vec<String> = parts.iter().map(|part| shown("", part)).collect();
        parts.join(between)
    };
    match value {
        Value::Null => DEFAULT.to_string(),
        Value::String(text) => text.clone(),
        Value::Array(sides) if key == "size" => parts(sides, "x"),
        Value::Array(numbers) => parts(numbers, ","),
        other => other.to_string(),
    }
}

/// A value that people typed, in the shape that the setting has.
fn read(key: &str, text: &str, current: &Value) -> Value {
    let number = |part: &str| serde_json::from_str(part.trim()).unwrap_or(json!(part.trim()));
    match current {
        Value::Array(_) if key == "size" => text.split(['x', ',']).map(number).collect(),
        Value::Array(_) => text.split(',').map(number).collect(),
        Value::Bool(_) => match text {
            "on" | "yes" | "true" => json!(true),
            "off" | "no" | "false" => json!(false),
            other => json!(other),
        },
        Value::String(_) => json!(text.to_lowercase().replace('-', "_")),
        _ => number(text),
    }
}

impl Session {
    /// The settings of the next turn, by name.
    pub fn table(&self) -> Vec<(String, String)> {
        table(&self.settings).iter().map(|(key, value)| (key.clone(), shown(key, value))).collect()
    }

    /// Sets `key` to `value` for the turns to come.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), AgentError> {
        let key = key.replace('-', "_").to_lowercase();
        let mut settings = table(&self.settings);
        let Some(current) = settings.get(&key) else {
            let keys = settings.keys().cloned().collect();
            return Err(AgentError::UnknownSetting { key, keys });
        };
        let wrong = |error: serde_json::Error| AgentError::SettingValue {
            key: key.clone(),
            value: value.to_string(),
            reason: error.to_string(),
        };
        let changed = if value == DEFAULT {
            let initial = table(&self.initial).remove(&key).unwrap_or_default();
            settings.insert(key.clone(), initial);
            serde_json::from_value(Value::Object(settings)).map_err(wrong)?
        } else {
            let patch = json!({ &key: read(&key, value, current) });
            let patch: SettingsPatch = serde_json::from_value(patch).map_err(wrong)?;
            let mut changed = self.settings.clone();
            patch.apply(&mut changed);
            changed
        };
        changed.validate()?;
        self.settings = changed;
        Ok(())
    }
}
