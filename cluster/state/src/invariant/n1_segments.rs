//! N1: what flags and segments ask about is there, in no circle, and every list has its segment.

use crate::State;
use crate::state::key;

pub fn check(state: &State) -> Result<(), String> {
    for ((environment, flag), record) in state.flags.iter().filter(|(_, record)| !record.archived) {
        let Some(definition) = &record.definition else { continue };
        state
            .check_segments_of_flag(environment, definition)
            .map_err(|refusal| format!("flag {environment}/{flag}: {} {}", refusal.field, refusal.value))?;
    }
    for (id, record) in &state.segments {
        let Some(definition) = &record.definition else { continue };
        state
            .check_segments_of_segment(id, definition)
            .map_err(|refusal| format!("segment {}/{}: {}", id.0, id.1, refusal.message))?;
    }
    for (environment, segment) in state.segment_units.keys() {
        if !state.segments.contains_key(&key(environment, segment)) {
            return Err(format!("a list of segment {environment}/{segment}, which is none"));
        }
    }
    Ok(())
}
