//! Stage `rehearse`: instructions → plans over stand-ins, before there is an encoder.

use super::plan_score;
use super::planner_stage::{Examine, PlannerStage};
use crate::stages::StageContext;
use crate::{Recipe, Result};

/// The recipe of the stage.
pub fn open(context: &StageContext) -> Result<Box<dyn Recipe>> {
    let examine = Some(plan_score::examine as Examine);
    let make = super::instruct::examples;
    Ok(Box::new(PlannerStage::open("rehearse", context, make, examine)?))
}
