"""The explorer: `streamlit run app/main.py`. Not installed, and never imported by the package."""
