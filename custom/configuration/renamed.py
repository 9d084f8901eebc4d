"""Options of version 0.1.0 that have been renamed or moved."""

_SURFACE = ("threshold_low", "threshold_high", "min_component_voxels", "closing_radius")
_SURFACE += ("pinhole_iterations", "max_hole_area", "max_cavity_voxels")

RENAMED = {
    "window_batch_size": "sw_batch_size",
    "slice_batch_size": "sw_batch_size",
    **{name: f"surface_postprocessing#{name}" for name in _SURFACE},
    "compile": "train#trainer#compile",
    "checkpoint_minutes": "train#handlers#3#checkpoint_minutes",
    "betti_interval": "loss#every#betti",
    "foreground_share": "train#dataset#foreground_share",
    "is_main_process": "configs/multi_gpu_train.json, which is all that several processes need",
    "rotate_range": "augmentation#warp#rotate_range",
    "scale_range": "augmentation#warp#scale_range",
    "elastic_magnitude": "augmentation#warp#elastic_magnitude",
    "elastic_spacing": "augmentation#warp#elastic_spacing",
    "slice_shift": "augmentation#warp#slice_shift",
    "augmentation#warp_prob": "augmentation#warp#prob",
    "augmentation#compression_prob": "augmentation#compression#prob",
    "augmentation#compression_strength": "augmentation#compression#strength",
    "augmentation#dropout_prob": "augmentation#dropout#prob",
    "augmentation#dropout_size": "augmentation#dropout#spatial_size and #max_spatial_size",
    "augmentation#gamma_prob": "augmentation#contrast#prob",
    "augmentation#gamma": "augmentation#contrast#gamma",
    "augmentation#noise_prob": "augmentation#noise#prob",
    "augmentation#noise_std": "augmentation#noise#std",
    "checkpoint_levels": "module, as in configs/low_memory.json",
    "schedule": "lr_scheduler#name",
    "warmup_steps": "lr_scheduler#warmup_steps",
    "ema_decay": "ema#decay",
    "score_parts": "validate#metric#parts",
    "run_name": "output_dir",
    "bucket": "output_dir, which may be a URL",
    "train#volumes": "cache",
    "validate#volumes": "cache",
    "train#cases": "train#dataset#data",
    "validate#cases": "validate#dataset#data",
    "train#checkpoints": "train#handlers#3",
    "train#history": "train#handlers#3#history",
}
"""Old id to its replacement."""
