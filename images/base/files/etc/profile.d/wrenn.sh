# shellcheck shell=sh
# Login shells find what pip and npm install for the user.
export LANG="${LANG:-C.UTF-8}"
case ":$PATH:" in
  *":$HOME/.local/bin:"*) ;;
  *) export PATH="$HOME/.local/bin:$PATH" ;;
esac
