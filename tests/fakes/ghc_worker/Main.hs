-- | A Haskell compiler for Bazel's worker protocol (protobuf, one request at a time), on GHC 9.0's own library.
--
-- Every request begins from one snapshot: the interfaces of installed packages that the first, invisible compile has
-- read, and nothing of any request before it. Interfaces come out the same byte by byte as of @ghc@ itself; names of local
-- symbols in objects differ from run to run, as they do with GHC.
module Main (main) where

import Control.Exception (SomeException, evaluate, fromException, throwIO, try)
import Control.Monad (unless, when)
import Control.Monad.IO.Class (liftIO)
import Data.Bits (shiftL, shiftR, testBit, (.&.), (.|.))
import qualified Data.ByteString as B
import qualified Data.ByteString.Builder as Builder
import qualified Data.ByteString.Char8 as C
import qualified Data.ByteString.Lazy as L
import Data.IORef
import Data.List (isSuffixOf, partition)
import Data.Word (Word64, Word8)
import GHC.IO.Encoding (char8, setFileSystemEncoding)
import System.Directory (createDirectoryIfMissing, getTemporaryDirectory, removeDirectoryRecursive)
import System.Environment (getArgs)
import System.Exit (ExitCode (..), exitWith)
import System.IO
import System.Posix.Process (getProcessID)

import GHC
import GHC.Driver.Monad (getSession, setSession)
import GHC.Driver.Phases (Phase (StopLn))
import GHC.Driver.Pipeline (oneShot)
import GHC.Driver.Session
import GHC.Driver.Types (HscEnv (..), SourceError, handleFlagWarnings, srcErrorMessages)
import GHC.Unit.Module.Env (emptyInstalledModuleEnv)
import GHC.Utils.Error (pprErrMsgBagWithLoc)
import GHC.Utils.Outputable (defaultErrStyle, initSDocContext, renderWithStyle, vcat)
import GHC.Utils.Panic (GhcException (..), showGhcException)

-- | A request as far as it is used.
data Request = Request { requestArguments :: [String], requestId :: Word64, requestCancels :: Bool }

-- | What a request gave: exit code, and what the compiler said.
type Reply = (Int, String)

main :: IO ()
main = do
  -- Paths keep their bytes, whatever the locale is.
  setFileSystemEncoding char8
  arguments <- getArgs
  let (persistent, others) = partition (== "--persistent_worker") arguments
  if null persistent
    then do
      expanded <- concat <$> mapM expand others
      (code, said) <- withCompiler (\compile -> compile expanded)
      hPutStr stderr said
      exitWith (if code == 0 then ExitSuccess else ExitFailure code)
    else do
      startup <- concat <$> mapM expand others
      hSetBinaryMode stdin True
      hSetBinaryMode stdout True
      withCompiler (serve . (. (startup ++)))

-- | The words of a file of arguments, one a line.
expand :: String -> IO [String]
expand ('@' : path) = filter (not . null) . map C.unpack . C.lines <$> B.readFile path
expand word = return [word]

serve :: ([String] -> IO Reply) -> IO ()
serve compile = do
  next <- readRequest
  case next of
    Nothing -> return ()
    -- One request at a time, so that what a cancel names has always ended.
    Just request | requestCancels request -> serve compile
    Just request -> do
      reply <- compile (requestArguments request)
      writeReply (requestId request) reply
      serve compile

-- | Calls with a compiler that keeps what it has learned of installed packages, and nothing else.
withCompiler :: (([String] -> IO Reply) -> IO a) -> IO a
withCompiler call = do
  said <- newIORef []
  runGhc (Just GHC_LIBDIR) $ do
    flags <- getSessionDynFlags
    _ <- setSessionDynFlags flags
      { ghcMode = OneShot, ghcLink = NoLink, hscTarget = HscAsm, verbosity = 0, log_action = gather said }
    base <- getSession
    warmUp base
    packages <- liftIO (readIORef (hsc_EPS base))
    names <- liftIO (readIORef (hsc_NC base))
    liftIO . call $ \arguments -> do
      writeIORef said []
      packages' <- newIORef packages
      names' <- newIORef names
      found <- newIORef emptyInstalledModuleEnv
      let environment = base { hsc_EPS = packages', hsc_NC = names', hsc_FC = found }
      outcome <- try (runGhc (Just GHC_LIBDIR) (setSession environment >> compileOne arguments))
      code <- either (codeOf said) (const (return 0)) outcome
      texts <- readIORef said
      return (code, concat (reverse texts))

-- | Has the interfaces read that nearly every module needs.
warmUp :: HscEnv -> Ghc ()
warmUp base = do
  directory <- liftIO $ do
    temporary <- getTemporaryDirectory
    process <- getProcessID
    let directory = temporary ++ "/ghc-worker-" ++ show process
    createDirectoryIfMissing True directory
    writeFile (directory ++ "/Warm.hs") warmModule
    return directory
  let source = directory ++ "/Warm.hs"
  setSession base
  compileOne ["-odir", directory, "-hidir", directory, source]
  setSession base
  liftIO (removeDirectoryRecursive directory)

warmModule :: String
warmModule = unlines
  [ "module Warm (warm, Shape(..)) where"
  , "import Data.Char (toUpper)"
  , "import Data.List (foldl', sortBy, intercalate)"
  , "import Data.Maybe (fromMaybe, mapMaybe)"
  , "data Shape = Round Double | Square { side :: Double } deriving (Eq, Ord, Show, Read)"
  , "warm :: [Int] -> String"
  , "warm xs = intercalate \", \" (map show (sortBy (\\a b -> compare b a) xs)) ++ map toUpper (show (foldl' (+) 0 xs))"
  , "  ++ show (fromMaybe 0 (lookup 1 (zip xs xs))) ++ concat (mapMaybe (\\x -> Just (show [Round (fromIntegral x)])) xs)"
  ]

compileOne :: [String] -> Ghc ()
compileOne arguments = do
  base <- getSessionDynFlags
  (flags, rest, warnings) <- parseDynamicFlagsCmdLine base (map noLoc (filter (/= "-c") arguments))
  -- Finding the packages again is the dear part, and needed only where other ones are asked for.
  if packageFlags flags == packageFlags base && packageDBFlags flags `sameLength` packageDBFlags base
    then setSession . (\environment -> environment { hsc_dflags = flags }) =<< getSession
    else () <$ setSessionDynFlags flags
  environment <- getSession
  liftIO (handleFlagWarnings (hsc_dflags environment) warnings)
  let words' = map unLoc rest
      (sources, strange) = partition (\word -> any (`isSuffixOf` word) [".hs", ".lhs"]) words'
  unless (null strange) $ liftIO (throwIO (UsageError ("not understood: " ++ unwords strange)))
  when (null sources) $ liftIO (throwIO (UsageError "no source is named"))
  liftIO (oneShot environment StopLn [(source, Nothing) | source <- sources])
  where sameLength one other = length one == length other

-- | What the compiler says goes into the reply, never to standard output, which is the wire.
gather :: IORef [String] -> LogAction
gather said flags _ _ place message =
  modifyIORef' said ((prefix ++ renderWithStyle context message ++ "\n") :)
  where
    context = initSDocContext flags defaultErrStyle
    prefix = case place of
      RealSrcSpan _ _ -> show place ++ ": "
      _ -> ""

-- | The exit code of a failure; what it says is added to what was said.
codeOf :: IORef [String] -> SomeException -> IO Int
codeOf said exception
  | Just code <- fromException exception = return (case code of { ExitSuccess -> 0; ExitFailure n -> n })
  | Just errors <- fromException exception = do
      let messages = pprErrMsgBagWithLoc (srcErrorMessages (errors :: SourceError))
          context = initSDocContext unsafeGlobalDynFlags defaultErrStyle
      modifyIORef' said ((renderWithStyle context (vcat messages) ++ "\n") :)
      return 1
  | Just usage <- fromException exception = do
      modifyIORef' said ((showGhcException usage "\n") :)
      return (case usage of { UsageError _ -> 2; _ -> 1 })
  | otherwise = do
      modifyIORef' said ((show exception ++ "\n") :)
      return 1

-- * The wire: messages of protobuf, each after its length as a varint

-- | No request is larger.
requestBytesMax :: Word64
requestBytesMax = 256 `shiftL` 20

readRequest :: IO (Maybe Request)
readRequest = do
  ended <- hIsEOF stdin
  if ended then return Nothing else do
    size <- readLength 0 0
    when (size > requestBytesMax) $ ioError (userError ("a request of " ++ show size ++ " bytes"))
    message <- B.hGet stdin (fromIntegral size)
    when (B.length message < fromIntegral size) $ ioError (userError "a request ends too early")
    request <- evaluate (parse message (Request [] 0 False))
    return (Just request { requestArguments = reverse (requestArguments request) })

readLength :: Int -> Word64 -> IO Word64
readLength shift value = do
  byte <- B.head <$> B.hGet stdin 1
  let value' = value .|. (fromIntegral (byte .&. 0x7f) `shiftL` shift)
  if testBit byte 7 && shift < 35 then readLength (shift + 7) value' else return value'

parse :: B.ByteString -> Request -> Request
parse message request
  | B.null message = request
  | otherwise = case (tag `shiftR` 3, tag .&. 7) of
      (1, 2) -> parse after2 request { requestArguments = utf8 field : requestArguments request }
      (3, 0) -> parse after0 request { requestId = number }
      (4, 0) -> parse after0 request { requestCancels = number /= 0 }
      (_, 0) -> parse after0 request
      (_, 1) -> parse (B.drop 8 rest) request
      (_, 2) -> parse after2 request
      (_, 5) -> parse (B.drop 4 rest) request
      (_, kind) -> error ("a field of kind " ++ show kind)
  where
    (tag, rest) = varint message
    (number, after0) = varint rest
    (field, after2) = let (size, from) = varint rest in B.splitAt (fromIntegral size) from
    -- Arguments of this worker are paths and flags; others than ASCII keep their bytes.
    utf8 = C.unpack

varint :: B.ByteString -> (Word64, B.ByteString)
varint = go 0 0
  where
    go shift value bytes = case B.uncons bytes of
      Nothing -> error "a number without an end"
      Just (byte, rest)
        | testBit byte 7 && shift < 63 -> go (shift + 7) (next shift value byte) rest
        | otherwise -> (next shift value byte, rest)
    next :: Int -> Word64 -> Word8 -> Word64
    next shift value byte = value .|. (fromIntegral (byte .&. 0x7f) `shiftL` shift)

writeReply :: Word64 -> Reply -> IO ()
writeReply number (code, said) = do
  let text = L.toStrict (Builder.toLazyByteString (Builder.stringUtf8 said))
      message = L.toStrict . Builder.toLazyByteString $
        field 1 0 (putVarint (fromIntegral code))
          <> field 2 2 (putVarint (fromIntegral (B.length text)) <> Builder.byteString text)
          <> field 3 0 (putVarint number)
  L.hPut stdout (Builder.toLazyByteString (putVarint (fromIntegral (B.length message)) <> Builder.byteString message))
  hFlush stdout
  where field number' kind value = putVarint (number' `shiftL` 3 .|. kind) <> value

putVarint :: Word64 -> Builder.Builder
putVarint value
  | value < 0x80 = Builder.word8 (fromIntegral value)
  | otherwise = Builder.word8 (fromIntegral (value .&. 0x7f) .|. 0x80) <> putVarint (value `shiftR` 7)
