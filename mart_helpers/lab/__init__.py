"""For trying the workbook: synthetic inputs, and inputs broken on purpose."""
