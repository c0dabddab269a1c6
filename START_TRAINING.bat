@echo off
rem Double-click to install and train. Arguments go to continuous_loop.py, as in: START_TRAINING.bat --data C:\records
rem Needs no administrator rights. A second double-click follows the loop that already runs.
setlocal EnableExtensions DisableDelayedExpansion
title Branchwise
set "PYTHONUTF8=1"
set "REASON="
set "PY="

pushd "%~dp0"
if errorlevel 1 (set "REASON=this folder can't be opened; copy it to a local disk" & goto failed)

call :try py -3.12
if not defined PY call :try py -3.11
if not defined PY call :try python
if not defined PY call :try python3
if not defined PY goto ask
goto install

:ask
echo Branchwise needs Python 3.11 or 3.12, and this PC has neither in its usual places.
echo Install it for yourself alone, without administrator rights, in one of these ways:
echo   winget install -e --id Python.Python.3.12 --scope user
echo   https://www.python.org/downloads/windows/
echo Then start this file again. Or say where it is:
set "ANSWER="
set /p "ANSWER=Path of a python.exe of 3.11 or 3.12 (Enter alone: stop): "
if not defined ANSWER (set "REASON=no Python 3.11 or 3.12; install one as the lines above say" & goto failed)
set ANSWER=%ANSWER:"=%
if not defined ANSWER (set "REASON=no Python 3.11 or 3.12; install one as the lines above say" & goto failed)
call :try "%ANSWER%"
if not defined PY (set "REASON=what you typed is no Python 3.11 or 3.12" & goto failed)

:install
echo Using %PY%
call %PY% experts\installation.py
if errorlevel 1 (set "REASON=the installation failed; the lines above say why" & goto failed)

call ".venv\Scripts\python" -m experts start %*
if errorlevel 1 (set "REASON=training ended with an error; the lines above say why. What was trained is kept: start this file again to go on" & goto failed)
if not errorlevel 0 (set "REASON=training crashed. What was trained is kept: start this file again to go on" & goto failed)

popd
endlocal
exit /b 0

:failed
echo.
echo It did not work: %REASON%.
echo For help: .venv\Scripts\python -m experts doctor
pause
endlocal
exit /b 1

:try
call %* -c "import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))" >nul 2>nul
if errorlevel 1 exit /b 0
set PY=%*
exit /b 0
