"""Calibration: thresholds from data, with a bound on false alarms (`mlrm-guard calibrate`)."""
